use super::*;

const MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

#[test]
fn cgroup2_is_found_beside_version_one() {
    assert_eq!(mount_point(MOUNTS, "cgroup2").as_deref(), Some("/sys/fs/cgroup/unified"));
}

#[test]
fn what_is_not_mounted_is_not_found() {
    assert_eq!(mount_point(MOUNTS, "bpf"), None);
    assert_eq!(mount_point("garbage", "bpf"), None);
}
