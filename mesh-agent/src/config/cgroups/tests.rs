#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use super::*;

const HOST: &str = "\
25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu rw shared:11 - cgroup cgroup rw,cpu
";

/// A container's own mount, and the node's by a hostPath.
const CONTAINER: &str = "\
700 690 0:30 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw
701 690 0:30 /../../../.. /host/sys/fs/cgroup rw - cgroup2 cgroup2 rw
702 690 0:30 /../../../../system.slice /host/system rw - cgroup2 cgroup2 rw
";

#[test]
fn the_mount_that_reaches_highest_is_taken() {
    assert_eq!(highest(HOST), Some("/sys/fs/cgroup/unified".into()));
    assert_eq!(highest(CONTAINER), Some("/host/sys/fs/cgroup".into()));
    let own = CONTAINER.lines().next().unwrap();
    assert_eq!(highest(own), Some("/sys/fs/cgroup".into()));
    assert_eq!(highest("25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"), None);
}

fn cgroup(directory: &Path, pids: &str) {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("cgroup.procs"), pids).unwrap();
}

#[test]
fn a_process_is_found_where_its_pid_stands_and_nowhere_else() {
    let root = tempfile::tempdir().unwrap();
    let own = root.path().join("kubepods.slice/kubepods-pod1.slice/cri-containerd-a.scope");
    cgroup(root.path(), "1\n2\n");
    cgroup(&root.path().join("system.slice"), "4211\n142\n0\n0\n");
    cgroup(&own, "0\n421\n");
    assert_eq!(search(root.path(), 421), Some(own));
    assert_eq!(search(root.path(), 2), Some(root.path().to_owned()));
    assert_eq!(search(root.path(), 42), None);
}
