use super::*;

fn settings(cidrs: &[&str], ports: &[std::ops::RangeInclusive<u16>]) -> MeshSettings {
    MeshSettings {
        excluded_prefixes: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        excluded_ports: ports.to_vec(),
        ..MeshSettings::default()
    }
}

fn entries(cidrs: &[&str]) -> Vec<(u32, String, u32)> {
    let exclusions = Exclusions::of(&settings(cidrs, &[])).unwrap();
    exclusions
        .nets()
        .map(|(net, value)| {
            (net.bits, std::net::Ipv6Addr::from(net.octets).to_canonical().to_string(), value)
        })
        .collect()
}

#[test]
fn both_families_share_one_kind_of_prefix() {
    assert_eq!(entries(&["10.1.2.3/8"]), [(104, "10.0.0.0".into(), 1)]);
    assert_eq!(entries(&["fd00:1::/32"])[1], (32, "fd00:1::".into(), 1));
    assert_eq!(entries(&["0.0.0.0/0"]), [(96, "0.0.0.0".into(), 1)]);
}

#[test]
fn a_short_ipv6_prefix_does_not_hold_ipv4() {
    assert_eq!(entries(&["::/0"]), [(96, "0.0.0.0".into(), 0), (0, "::".into(), 1)]);
    assert_eq!(entries(&["::/0", "0.0.0.0/0"]), [(0, "::".into(), 1), (96, "0.0.0.0".into(), 1)]);
    // Longer than the mark: it cannot hold IPv4.
    assert_eq!(entries(&["fd00::/96"]), [(96, "fd00::".into(), 1)]);
}

#[test]
fn more_than_fits_is_an_error_that_says_what_to_do() {
    let many: Vec<String> =
        (0..=maps::EXCLUDED_NETS_SET_MAX).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = Exclusions::of(&settings(&many, &[])).unwrap_err();
    assert_eq!(error, TooMany::Nets(1025));
    assert!(error.to_string().contains("1025 CIDRs and 1024 are possible"), "{error}");
    assert!(Exclusions::of(&settings(&many[1..], &[])).is_ok());
    let error = Exclusions::of(&settings(&[], &[1..=4000, 3000..=4097])).unwrap_err();
    assert_eq!(error, TooMany::Ports(4097));
    assert!(Exclusions::of(&settings(&[], &[1..=4000, 3000..=4096])).is_ok());
}

#[test]
fn what_there_is_none_of_is_not_looked_up() {
    let flags = |cidrs: &[&str], ports: &[std::ops::RangeInclusive<u16>]| {
        Exclusions::of(&settings(cidrs, ports)).unwrap().flags()
    };
    assert_eq!(flags(&[], &[]), 0);
    assert_eq!(flags(&["10.0.0.0/8"], &[]), Settings::EXCLUDED_NETS);
    assert_eq!(flags(&[], &[5432..=5432]), Settings::EXCLUDED_PORTS);
    assert_eq!(flags(&["::/0"], &[5432..=5432]), Settings::EXCLUDED_NETS | Settings::EXCLUDED_PORTS);
}
