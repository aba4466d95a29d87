#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const ORDER: [Mode; 3] = [Mode::Off, Mode::Metrics, Mode::Line];

fn slice(connections: u64, cpu_us: u64) -> Slice {
    let cpu = Duration::from_micros(connections * cpu_us);
    Slice { cpu, connections, time: Duration::from_millis(250) }
}

fn taken(counted: f64, lines: u64) -> Taken {
    let round = [(100, 90), (50, 91), (40, 95), (60, 97), (50, 93), (100, 92)];
    let round: Vec<Slice> = round.into_iter().map(|(count, cpu)| slice(count, cpu)).collect();
    Taken { rounds: vec![round.clone(), round], counted: [counted; 2], lines }
}

#[test]
fn connections_are_read_from_the_clients_namespace() {
    let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 1234 5\n";
    assert_eq!(active_opens(text), Some(1234));
    assert_eq!(active_opens("Tcp: RtoMin\nTcp: 200\n"), None);
}

#[test]
fn a_mode_is_its_slice_there_and_its_slice_back() {
    let of = |place| -> Vec<f64> { taken(0.0, 0).of(place).map(Slice::cpu_us).collect() };
    assert_eq!((of(0), of(1)), (vec![91.0; 2], vec![92.0; 2]));
    assert!((of(2)[0] - 96.2).abs() < 1e-9 && of(3).len() == 2 && of(6).is_empty());
    assert!((slice(100, 90).rate() - 400.0).abs() < 1e-9);
}

#[test]
fn what_was_counted_and_written_must_be_what_the_modes_stand_for() {
    // Of 800 connections 400 with metrics or lines, and 200 with lines, from both agents.
    assert!(taken(400.0, 400).verify(&ORDER).is_ok());
    assert!(taken(390.0, 390).verify(&ORDER).is_ok());
    for wrong in [taken(800.0, 400), taken(0.0, 400), taken(400.0, 0), taken(400.0, 200)] {
        let error = wrong.verify(&ORDER).unwrap_err().to_string();
        assert!(error.contains("not switched"), "{error}");
    }
}
