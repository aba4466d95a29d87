#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

#[test]
fn busy_is_what_is_neither_idle_nor_stolen() {
    let text = "cpu  100 10 50 800 20 5 15 30 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
    let time = MachineTime::parse(text, 100.0).unwrap();
    assert_eq!(time, MachineTime { busy: 1.8, steal: 0.3, total: 10.3 });
    assert!(MachineTime::parse("intr 1", 100.0).is_none());
}
