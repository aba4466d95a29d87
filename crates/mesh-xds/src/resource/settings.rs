//! The mesh's settings and a node, to the wire and back.

use std::sync::Arc;

use mesh_model::{
    AccessLogMode, AccessLogSettings, MeshSettings, MetricsProfile, MetricsSettings, NodeInfo, Share,
};

use super::{
    Name, Reader, ResourceError, encode_address, encode_mtls, encode_prefix, encode_range, shared, strings,
};
use crate::proto;

pub(super) fn encode_mesh(settings: &MeshSettings) -> proto::Mesh {
    proto::Mesh {
        excluded_prefixes: settings.excluded_prefixes.iter().map(encode_prefix).collect(),
        excluded_ports: settings.excluded_ports.iter().map(encode_range).collect(),
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
        mtls: settings.mtls.map(|mtls| encode_mtls(mtls).into()),
        same_node_tunnel: settings.same_node_tunnel,
        // Nothing said is nothing sent: then the settings' version is what it was before there was such a field.
        metrics: (settings.metrics != MetricsSettings::default()).then(|| encode_metrics(&settings.metrics)),
        access_log: (settings.access_log != AccessLogSettings::default())
            .then(|| encode_access_log(&settings.access_log)),
    }
}

fn encode_metrics(metrics: &MetricsSettings) -> proto::Metrics {
    let profile = metrics.profile.map(|profile| match profile {
        MetricsProfile::Service => proto::MetricsProfile::Service,
        MetricsProfile::Workload => proto::MetricsProfile::Workload,
        MetricsProfile::Full => proto::MetricsProfile::Full,
    });
    proto::Metrics { profile: profile.map(Into::into), max_series: metrics.max_series }
}

fn encode_access_log(log: &AccessLogSettings) -> proto::AccessLog {
    let mode = log.mode.map(|mode| match mode {
        AccessLogMode::Off => proto::AccessLogMode::Off,
        AccessLogMode::Refused => proto::AccessLogMode::Refused,
        AccessLogMode::All => proto::AccessLogMode::All,
    });
    proto::AccessLog {
        mode: mode.map(Into::into),
        format: log.format.as_deref().map(str::to_owned),
        sample_millionths: log.sample.map(Share::millionths),
        namespaces: log.namespaces.as_deref().map(|names| proto::Names { names: strings(names) }),
        min_duration_ms: log.min_duration_ms,
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
    let range = |range| read.range("excluded_ports", range);
    let excluded_ports = message.excluded_ports.iter().map(range).collect::<Result<Vec<_>, _>>()?;
    let kubelet_port = message.kubelet_port.map(|port| read.port("kubelet_port", port)).transpose()?;
    let log_format = read.log_format("log_format", message.log_format.as_deref())?;
    let metrics = message.metrics.map(|metrics| decode_metrics(&read, &metrics)).transpose()?;
    let access_log = message.access_log.map(|log| decode_access_log(&read, &log)).transpose()?;
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
        mtls: message.mtls.map(|mtls| read.mtls("mtls", mtls)).transpose()?,
        same_node_tunnel: message.same_node_tunnel,
        metrics: metrics.unwrap_or_default(),
        access_log: access_log.unwrap_or_default(),
    })
}

fn decode_metrics(read: &Reader<'_>, message: &proto::Metrics) -> Result<MetricsSettings, ResourceError> {
    let profile = message.profile.map(|word| match proto::MetricsProfile::try_from(word) {
        Ok(proto::MetricsProfile::Service) => Ok(MetricsProfile::Service),
        Ok(proto::MetricsProfile::Workload) => Ok(MetricsProfile::Workload),
        Ok(proto::MetricsProfile::Full) => Ok(MetricsProfile::Full),
        Ok(proto::MetricsProfile::Unspecified) | Err(_) => {
            Err(read.error("metrics.profile", format!("{word}, unknown")))
        }
    });
    let max_series = match message.max_series {
        Some(0) => return Err(read.error("metrics.max_series", "0")),
        max_series => max_series,
    };
    Ok(MetricsSettings { profile: profile.transpose()?, max_series })
}

fn decode_access_log(
    read: &Reader<'_>,
    message: &proto::AccessLog,
) -> Result<AccessLogSettings, ResourceError> {
    let mode = message.mode.map(|word| match proto::AccessLogMode::try_from(word) {
        Ok(proto::AccessLogMode::Off) => Ok(AccessLogMode::Off),
        Ok(proto::AccessLogMode::Refused) => Ok(AccessLogMode::Refused),
        Ok(proto::AccessLogMode::All) => Ok(AccessLogMode::All),
        Ok(proto::AccessLogMode::Unspecified) | Err(_) => {
            Err(read.error("access_log.mode", format!("{word}, unknown")))
        }
    });
    let share = |millionths| {
        let wrong =
            || read.error("access_log.sample_millionths", format!("{millionths}, more than a million"));
        Share::of_millionths(millionths).ok_or_else(wrong)
    };
    Ok(AccessLogSettings {
        mode: mode.transpose()?,
        format: read.log_format("access_log.format", message.format.as_deref())?,
        sample: message.sample_millionths.map(share).transpose()?,
        namespaces: message.namespaces.as_ref().map(|names| shared(&names.names)),
        min_duration_ms: message.min_duration_ms,
    })
}

impl Reader<'_> {
    fn log_format(&self, field: &'static str, word: Option<&str>) -> Result<Option<Arc<str>>, ResourceError> {
        match word {
            None => Ok(None),
            Some(format @ ("text" | "json")) => Ok(Some(format.into())),
            Some(other) => Err(self.error(field, format!("{other:?}, unknown"))),
        }
    }
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
