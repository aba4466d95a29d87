use super::*;

const CAPTURED: Owner = Owner::Pod(PodEntry::STATE_CAPTURED);
const PENDING: Owner = Owner::Pod(PodEntry::STATE_PENDING);
const EXCLUDED: Owner = Owner::Pod(PodEntry::STATE_EXCLUDED);
const PEER: Addr = Addr::v4([10, 0, 0, 9]);
const OWN: Addr = Addr::v4([10, 0, 0, 1]);

#[test]
fn only_who_is_no_pod_or_excluded_connects_as_dialled() {
    use Connect::{Capture, Pass, Refuse};
    for (owner, allow_unknown, complete, expected) in [
        (Owner::Nobody, false, true, Pass),
        (Owner::Nobody, false, false, Pass),
        (EXCLUDED, false, false, Pass),
        (CAPTURED, false, true, Capture),
        (CAPTURED, true, false, Refuse(Refusal::NoWorld)),
        (PENDING, true, true, Refuse(Refusal::NotReady)),
        (Owner::Pod(77), true, true, Refuse(Refusal::NotReady)),
        (Owner::Unknown, false, true, Refuse(Refusal::UnknownPod)),
        (Owner::Unknown, true, true, Pass),
        (Owner::Foreign, true, true, Refuse(Refusal::ForeignNetns)),
    ] {
        assert_eq!(connect(owner, &PEER, false, allow_unknown, complete), expected, "{owner:?}");
    }
}

#[test]
fn what_is_excluded_passes_for_who_is_or_will_be_captured_and_for_nobody_else() {
    for (owner, heeds) in [
        (CAPTURED, true),
        (PENDING, true),
        (EXCLUDED, false),
        (Owner::Pod(77), false),
        (Owner::Unknown, false),
        (Owner::Foreign, false),
        (Owner::Nobody, false),
    ] {
        assert_eq!(heeds_exclusions(owner), heeds, "{owner:?}");
        for complete in [false, true] {
            let without = connect(owner, &PEER, false, false, complete);
            let expected = if heeds { Connect::Pass } else { without };
            assert_eq!(connect(owner, &PEER, true, false, complete), expected, "{owner:?}");
        }
    }
}

#[test]
fn what_stays_in_the_pod_or_on_its_link_passes_for_everybody() {
    let v6 = |last: u8, first: u8| {
        let mut bytes = [0; 16];
        (bytes[0], bytes[15]) = (first, last);
        if first == 0xfe {
            bytes[1] = 0x80;
        }
        Addr::v6(bytes)
    };
    for destination in [
        Addr::v4([127, 0, 0, 1]),
        Addr::v4([127, 9, 9, 9]),
        Addr::v4([0, 0, 0, 0]),
        Addr::v4([169, 254, 169, 254]),
        v6(1, 0),
        v6(0, 0),
        v6(1, 0xfe),
    ] {
        for owner in [CAPTURED, PENDING, Owner::Unknown, Owner::Foreign] {
            assert_eq!(connect(owner, &destination, false, false, false), Connect::Pass, "{destination:?}");
        }
    }
}

#[test]
fn a_socket_of_another_namespace_in_a_captured_pods_cgroup_is_foreign() {
    assert_eq!(owner_by_cgroup(PodEntry::STATE_CAPTURED, 7, 8), Owner::Foreign);
    assert_eq!(owner_by_cgroup(PodEntry::STATE_PENDING, 0, 8), PENDING);
    assert_eq!(owner_by_cgroup(PodEntry::STATE_EXCLUDED, 7, 8), EXCLUDED);
}

#[test]
fn what_arrives_goes_to_the_agent_unless_the_agent_or_the_pod_sent_it() {
    use Arrival::{Application, Drop, Listener, NotedClient, NotedDelivery, Outside};
    let loopback = Addr::v4([127, 0, 0, 1]);
    let [delivery, beside] =
        [0, 1].map(|fourth| Addr::v6([1, 0, 0, 0, 0, 0, 0, fourth, 0, 0, 0, 0, 0, 0, 0, 1]));
    for (state, remote, port, expected) in [
        (AddrEntry::CAPTURED, PEER, 80, Outside),
        (AddrEntry::LEAVING, PEER, 80, Application),
        (AddrEntry::CAPTURED, PEER, 15008, Listener(ListenerKey::HBONE)),
        (AddrEntry::LEAVING, PEER, 15008, Listener(ListenerKey::HBONE)),
        (AddrEntry::CAPTURED, PEER, 15006, Drop(Refusal::AgentPort)),
        (AddrEntry::CAPTURED, PEER, 15001, NotedClient),
        (AddrEntry::CAPTURED, OWN, 15001, NotedClient),
        (AddrEntry::CAPTURED, OWN, CapturePorts::FIRST - 1, Application),
        (AddrEntry::CAPTURED, OWN, CapturePorts::FIRST, NotedClient),
        (AddrEntry::CAPTURED, PEER, CapturePorts::LAST, NotedClient),
        (AddrEntry::LEAVING, loopback, CapturePorts::LAST, NotedClient),
        (AddrEntry::CAPTURED, PEER, CapturePorts::LAST + 1, Outside),
        (AddrEntry::CAPTURED, OWN, 15006, Drop(Refusal::AgentPort)),
        (AddrEntry::CAPTURED, OWN, 15008, Drop(Refusal::AgentPort)),
        (AddrEntry::CAPTURED, OWN, 80, Application),
        (AddrEntry::CAPTURED, loopback, 80, NotedDelivery),
        (AddrEntry::LEAVING, loopback, 80, NotedDelivery),
        (AddrEntry::CAPTURED, loopback, 15008, Drop(Refusal::AgentPort)),
        (AddrEntry::CAPTURED, delivery, 80, NotedDelivery),
        (AddrEntry::LEAVING, delivery, 80, NotedDelivery),
        (AddrEntry::CAPTURED, delivery, 15008, Drop(Refusal::AgentPort)),
        (AddrEntry::CAPTURED, beside, 80, Outside),
    ] {
        assert_eq!(arrival(state, &remote, &OWN, port), expected, "{remote:?} -> :{port}");
    }
}

#[test]
fn nobody_dials_where_deliveries_come_from() {
    let delivery = Addr::v6([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(arrival_elsewhere(&delivery), Arrival::Drop(Refusal::LoopbackSource));
    for local in
        [PEER, Addr::v4([127, 0, 0, 1]), Addr::v6([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])]
    {
        assert_eq!(arrival_elsewhere(&local), Arrival::Application, "{local:?}");
    }
}
