//! A file's text: documents, objects, facts. All of it or one error that says where.
//!
//! YAML documents are cut apart at `---` first, which no document may hold at the start of a line (YAML 1.2, 9.1.2),
//! so an error in one is numbered right whatever the others hold.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::node::v1::RuntimeClass;
use mesh_crd::{AuthorizationPolicy, MeshConfig};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_saphyr::{DefaultMessageFormatter, MessageFormatter as _, Spanned};

use crate::index::facts::{
    self, Fact, FactError, NamespaceFact, PodFact, Reading, RuntimeClassFact, ServiceFact, SliceFact,
};

/// Scalars, sequences and mappings in one document: a List of some ten thousand pods.
const NODES: usize = 5_000_000;

/// What is wrong with a file, and where.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {message} (document {document})")]
pub(super) struct ParseError {
    /// From 1.
    line: usize,
    /// From 1; only documents that are not empty count.
    document: usize,
    message: String,
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) facts: Vec<Fact>,
    /// `apiVersion kind` of objects that say nothing to the mesh.
    pub(super) unknown: BTreeSet<String>,
}

/// By the file's extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
}

/// What every object begins with.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<HeadMeta>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeadMeta {
    name: Option<String>,
    namespace: Option<String>,
}

#[derive(Debug, Deserialize)]
struct YamlList {
    #[serde(default)]
    items: Vec<Spanned<serde_json::Value>>,
}

#[derive(Debug, Deserialize)]
struct JsonList {
    #[serde(default)]
    items: Vec<serde_json::Value>,
}

/// One object's text, to be read as whatever type it turns out to be.
enum Source<'a> {
    Yaml(&'a str),
    Json(&'a str),
    /// An item of a List.
    Value(serde_json::Value),
}

/// An error inside of a document: its line there, if known, and what it is.
struct Broken {
    line: Option<usize>,
    message: String,
}

struct Document<'a> {
    /// Lines of the file before its text.
    before: usize,
    /// The first line of its text that holds something, from 1.
    content: usize,
    text: &'a str,
}

/// The facts of a YAML text, for tests of what comes after.
#[cfg(test)]
pub(crate) fn facts_of(yaml: &str) -> Result<Vec<Fact>, String> {
    let trust_domain = mesh_model::TrustDomain::new("cluster.local").map_err(|error| error.to_string())?;
    let reading = Reading { trust_domain, release_namespace: "weft-system".into() };
    parse(yaml, Format::Yaml, &reading).map(|parsed| parsed.facts).map_err(|error| error.to_string())
}

/// Reads a whole file.
pub(super) fn parse(text: &str, format: Format, reading: &Reading) -> Result<Parsed, ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = match format {
        Format::Yaml => yaml_documents(text),
        Format::Json => json_documents(text)?,
    };
    let mut parsed = Parsed::default();
    for (number, document) in (1..).zip(documents) {
        let source = match format {
            Format::Yaml => Source::Yaml(document.text),
            Format::Json => Source::Json(document.text),
        };
        source.read_document(reading, &mut parsed).map_err(|broken| ParseError {
            line: document.before + broken.line.unwrap_or(document.content),
            document: number,
            message: broken.message,
        })?;
    }
    Ok(parsed)
}

fn yaml_documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut before, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let is_marker = ["---", "..."].iter().any(|marker| {
            let rest = line.strip_prefix(marker);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
        });
        if is_marker {
            push_document(&mut documents, text.get(start..at).unwrap_or_default(), before);
            // What follows the marker on its own line belongs to the new document.
            (start, before) = (at + 3, number);
        }
        at += line.len();
    }
    push_document(&mut documents, text.get(start..).unwrap_or_default(), before);
    documents
}

fn push_document<'a>(documents: &mut Vec<Document<'a>>, text: &'a str, before: usize) {
    let holds_something = |line: &str| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#') && !line.starts_with("%YAML")
    };
    if let Some(at) = text.lines().position(holds_something) {
        documents.push(Document { before, content: at + 1, text });
    }
}

fn json_documents(text: &str) -> Result<Vec<Document<'_>>, ParseError> {
    let mut documents = Vec::new();
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    while let Some(value) = stream.next() {
        match value {
            Ok(value) => {
                let start = stream.byte_offset().saturating_sub(value.get().len());
                let before = text.get(..start).unwrap_or_default().matches('\n').count();
                documents.push(Document { before, content: 1, text: value.get() });
            }
            Err(error) => {
                let (line, document) = (error.line().max(1), documents.len() + 1);
                return Err(ParseError { line, document, message: message_of_json(&error) });
            }
        }
    }
    Ok(documents)
}

impl Source<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Broken> {
        match self {
            Self::Yaml(text) => serde_saphyr::from_str_with_options(text, yaml_options()).map_err(|error| {
                let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
                let message = DefaultMessageFormatter.format_message(error.without_snippet()).into_owned();
                Broken { line: line.filter(|line| *line > 0), message: one_line(&message) }
            }),
            Self::Json(text) => serde_json::from_str(text).map_err(|error| Broken {
                line: Some(error.line()).filter(|line| *line > 0),
                message: message_of_json(&error),
            }),
            Self::Value(value) => {
                T::deserialize(value).map_err(|error| Broken { line: None, message: message_of_json(&error) })
            }
        }
    }

    fn read_document(&self, reading: &Reading, parsed: &mut Parsed) -> Result<(), Broken> {
        let head: Head = self.read()?;
        if !head.is("v1", "List") {
            return self.read_object(&head, reading, parsed);
        }
        let items: Vec<(Option<usize>, serde_json::Value)> = match self {
            Self::Yaml(_) => {
                let list: YamlList = self.read()?;
                let line = |item: &Spanned<_>| usize::try_from(item.defined.line()).ok();
                list.items.into_iter().map(|item| (line(&item), item.value)).collect()
            }
            Self::Json(_) | Self::Value(_) => {
                let list: JsonList = self.read()?;
                list.items.into_iter().map(|item| (None, item)).collect()
            }
        };
        for (number, (line, item)) in (1..).zip(items) {
            let source = Self::Value(item);
            let read = source.read().and_then(|head| source.read_object(&head, reading, parsed));
            read.map_err(|broken| Broken { line, message: format!("item {number}: {}", broken.message) })?;
        }
        Ok(())
    }

    fn read_object(&self, head: &Head, reading: &Reading, parsed: &mut Parsed) -> Result<(), Broken> {
        let Some(kind) = head.kind.as_deref() else {
            return Err(Broken { line: None, message: "no object: kind is missing".into() });
        };
        let api_version = head.api_version.as_deref().unwrap_or_default();
        let fact = match (api_version, kind) {
            ("v1", "Namespace") => {
                NamespaceFact::new(&self.read::<Namespace>()?).map(Fact::Namespace).map(Some)
            }
            ("v1", "Pod") => PodFact::new(&self.read::<Pod>()?, &reading.trust_domain)
                .map(|pod| Some(Fact::Pod(Box::new(pod)))),
            ("v1", "Service") => {
                ServiceFact::new(&self.read::<Service>()?).map(|service| service.map(Fact::Service))
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                SliceFact::new(&self.read::<EndpointSlice>()?).map(|slice| slice.map(Fact::Slice))
            }
            ("node.k8s.io/v1", "RuntimeClass") => {
                RuntimeClassFact::new(&self.read::<RuntimeClass>()?).map(Fact::RuntimeClass).map(Some)
            }
            ("v1", "Node") => facts::node(&self.read::<Node>()?).map(Fact::Node).map(Some),
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                facts::network_policy(self.read()?).map(|policy| Some(Fact::NetworkPolicy(Box::new(policy))))
            }
            ("weft.dev/v1alpha1", "MeshConfig") => {
                facts::mesh(&self.read::<MeshConfig>()?).map(|mesh| Some(Fact::Mesh(Box::new(mesh))))
            }
            ("weft.dev/v1alpha1", "AuthorizationPolicy") => {
                facts::policy(&self.read::<AuthorizationPolicy>()?, reading)
                    .map(|authored| Some(Fact::Policy(Box::new(authored))))
            }
            ("v1", "ServiceAccount") => self.read::<ServiceAccount>().map(|_| Ok(None))?,
            ("", _) => {
                return Err(Broken {
                    line: None,
                    message: format!("{}: apiVersion is missing", head.named(kind)),
                });
            }
            _ => {
                parsed.unknown.insert(format!("{api_version} {kind}"));
                Ok(None)
            }
        };
        let broken = |error: FactError| Broken { line: None, message: head.complaint(kind, &error) };
        parsed.facts.extend(fact.map_err(broken)?);
        Ok(())
    }
}

impl Head {
    fn is(&self, api_version: &str, kind: &str) -> bool {
        self.api_version.as_deref() == Some(api_version) && self.kind.as_deref() == Some(kind)
    }

    fn named(&self, kind: &str) -> String {
        let name = |name: fn(&HeadMeta) -> Option<&String>| self.metadata.as_ref().and_then(name);
        match (name(|meta| meta.namespace.as_ref()), name(|meta| meta.name.as_ref())) {
            (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
            (None, Some(name)) => format!("{kind} {name}"),
            _ => kind.into(),
        }
    }

    fn complaint(&self, kind: &str, error: &dyn std::error::Error) -> String {
        let mut text = format!("{}: {error}", self.named(kind));
        if let Some(cause) = error.source() {
            text.push_str(&format!(": {cause}"));
        }
        text
    }
}

fn yaml_options() -> serde_saphyr::Options {
    let budget = serde_saphyr::budget! {
        max_events: 2 * NODES,
        max_nodes: NODES,
        max_total_scalar_bytes: 64 << 20,
    };
    serde_saphyr::options! { budget: budget, with_snippet: false }
}

/// Without the position, which is of the document and not of the file.
fn message_of_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    one_line(message)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
