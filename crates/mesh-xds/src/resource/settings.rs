//! The mesh's settings and a node, to the wire and back.

use std::ops::RangeInclusive;

use mesh_model::{MeshSettings, NodeInfo};

use super::{Name, Reader, ResourceError, encode_address, encode_prefix, shared, strings};
use crate::proto;

pub(super) fn encode_mesh(settings: &MeshSettings) -> proto::Mesh {
    let range = |range: &RangeInclusive<u16>| proto::PortRange {
        first: (*range.start()).into(),
        last: (*range.end()).into(),
    };
    proto::Mesh {
        excluded_prefixes: settings.excluded_prefixes.iter().map(encode_prefix).collect(),
        excluded_ports: settings.excluded_ports.iter().map(range).collect(),
        bootstrap_namespaces: settings
            .bootstrap_namespaces
            .as_deref()
            .map(|names| proto::Names { names: strings(names) }),
        allow_unknown_pods: settings.allow_unknown_pods,
        keep_pre_capture_sockets: settings.keep_pre_capture_sockets,
        keys_on_disk: settings.keys_on_disk,
        kubelet_port: settings.kubelet_port.map(u32::from),
        log_format: settings.log_format.as_deref().map(str::to_owned),
        leaving: settings.leaving,
    }
}

pub(super) fn encode_node(node: &NodeInfo) -> proto::Node {
    proto::Node {
        name: node.name.as_ref().into(),
        zone: node.zone.as_deref().unwrap_or_default().into(),
        addresses: node.addresses.iter().map(encode_address).collect(),
    }
}

pub(super) fn decode_mesh(name: &Name, message: proto::Mesh) -> Result<MeshSettings, ResourceError> {
    let read = Reader(name);
    let prefix = |prefix| read.prefix("excluded_prefixes", prefix);
    let excluded_prefixes = message.excluded_prefixes.iter().map(prefix).collect::<Result<Vec<_>, _>>()?;
    let mut excluded_ports = Vec::with_capacity(message.excluded_ports.len());
    for range in &message.excluded_ports {
        let first = read.port("excluded_ports.first", range.first)?;
        let last = read.port("excluded_ports.last", range.last)?;
        if first > last {
            return Err(read.error("excluded_ports", format!("{first}-{last}, the wrong way round")));
        }
        excluded_ports.push(first..=last);
    }
    let kubelet_port = message.kubelet_port.map(|port| read.port("kubelet_port", port)).transpose()?;
    let log_format = match message.log_format.as_deref() {
        None => None,
        Some(format @ ("text" | "json")) => Some(format.into()),
        Some(other) => return Err(read.error("log_format", format!("{other:?}, unknown"))),
    };
    Ok(MeshSettings {
        excluded_prefixes,
        excluded_ports,
        bootstrap_namespaces: message.bootstrap_namespaces.map(|names| shared(&names.names)),
        allow_unknown_pods: message.allow_unknown_pods,
        keep_pre_capture_sockets: message.keep_pre_capture_sockets,
        keys_on_disk: message.keys_on_disk,
        kubelet_port,
        log_format,
        leaving: message.leaving,
    })
}

pub(super) fn decode_node(name: &Name, message: proto::Node) -> Result<NodeInfo, ResourceError> {
    let read = Reader(name);
    let text = read.text("name", &message.name)?;
    if *name != Name::Node(text.into()) {
        return Err(read.error("name", format!("{text}, of another node")));
    }
    Ok(NodeInfo {
        name: text.into(),
        zone: (!message.zone.is_empty()).then(|| message.zone.as_str().into()),
        addresses: read.addresses("addresses", &message.addresses)?,
    })
}
