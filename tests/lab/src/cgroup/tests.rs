#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
use std::path::Path;

use super::parse_mountinfo;

#[test]
fn the_unified_hierarchy_is_found_beside_version_1() {
    let table = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";
    assert_eq!(parse_mountinfo(table).as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
}

#[test]
fn without_cgroup2_there_is_none() {
    assert_eq!(parse_mountinfo("31 23 0:28 / /sys rw - sysfs sysfs rw\n"), None);
}
