#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

const STATISTICS: &str = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,\n\
                          port-7000,FRONTEND,,,0,2,4096,5,640,640,0,\n\
                          port-7000,next,0,0,0,2,,5,640,640,,\n\
                          port-7000,BACKEND,0,0,0,2,410,5,640,640,0,\n\
                          port-7001,FRONTEND,,,0,1,4096,3,3,4,0,\n\n";

fn measure(connections: u64, bytes: u64) -> Measure {
    Measure { units: 1.0, seconds: 1.0, bytes, connections, p50_us: None, p99_us: None }
}

#[test]
fn what_was_carried_is_what_front_ends_counted() {
    assert_eq!(frontends(STATISTICS), Some((8, 1287)));
    assert_eq!(frontends("# pxname,svname,stot\nport-1,FRONTEND,1\n"), None);
    assert_eq!(frontends("Unknown command.\n"), None);
    assert_eq!(field("Name: HAProxy\nVersion: 2.6.12-1\nCumSslConns: 7\n", "CumSslConns"), Some("7"));
}

#[test]
fn too_few_connections_bytes_or_handshakes_are_no_proof() {
    let carried = Carried { connections: 3, bytes: 960, tls: 3 };
    assert_eq!(judge(&measure(3, 1000), carried), Ok(()));
    assert!(judge(&measure(4, 1000), carried).is_err());
    assert!(judge(&measure(3, 1100), carried).is_err());
    let error = judge(&measure(3, 1000), Carried { tls: 2, ..carried }).unwrap_err();
    assert!(error.contains("2 under TLS"), "{error}");
}

#[test]
fn both_ends_show_a_certificate_and_ask_for_one() {
    let (client, server) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    for (end, listens, dials) in [
        (End::Client, "bind 10.0.0.1:7000\n", "server next 10.0.0.2:17000 ssl crt /d/own.pem "),
        (
            End::Server,
            "bind 10.0.0.2:17000 ssl crt /d/own.pem ",
            "server next 10.0.0.2:7000 source 127.0.0.1\n",
        ),
    ] {
        let text = configuration(end, Path::new("/d"), &[end.hop(client, server, 7000)]);
        assert!(text.contains(listens) && text.contains(dials), "{text}");
        let under_tls: Vec<&str> = text.lines().filter(|line| line.contains(" ssl crt ")).collect();
        assert_eq!(under_tls.len(), 1, "{text}");
        assert!(under_tls[0].contains("ca-file /d/root.pem verify required"), "{text}");
        assert!(text.contains("nbthread 1\n") && text.contains("ssl-min-ver TLSv1.3"), "{text}");
    }
    let text = configuration(End::Client, Path::new("/d"), &[End::Client.hop(client, server, 7000)]);
    assert!(text.contains("verifyhost server.yardstick.weft.dev\n"), "{text}");
}

#[test]
fn each_end_gets_its_key_for_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = std::env::temp_dir().join(format!("weft-yardstick-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let written = certificates::Authority::new().and_then(|one| one.write(&directory, End::Client.name()));
    let own = std::fs::read_to_string(directory.join(OWN));
    let mode = std::fs::metadata(directory.join(OWN)).map(|data| data.permissions().mode() & 0o777);
    std::fs::remove_dir_all(&directory).unwrap();
    written.unwrap();
    let own = own.unwrap();
    assert!(own.contains("BEGIN CERTIFICATE") && own.contains("BEGIN PRIVATE KEY"), "{own}");
    assert_eq!(mode.unwrap(), 0o600);
}
