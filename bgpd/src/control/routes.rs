//! `/v1/routes`: a stream, made of slices as fast as the reader takes them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bgp_proto::af::Prefix;
use bgp_proto::rib::{Cursor, PrefixFilter, RouteFilter, RouteInfo};
use bgp_proto::wire::attribute::Attributes;
use bgp_proto::wire::{as_path, iana};
use serde::{Deserialize, Serialize};

use super::App;
use super::error::Refusal;
use super::whom::whom;
use crate::speaker::{Handle, PeersAt, RouteQuery, RouteSlice, RouteView};

/// The query of `/v1/routes`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    #[serde(default)]
    view: ViewName,
    peer: Option<String>,
    prefix: Option<String>,
    #[serde(default, rename = "match")]
    matching: Match,
    community: Option<String>,
    #[serde(default)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ViewName {
    #[default]
    Best,
    Received,
    Advertised,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Match {
    #[default]
    Longer,
    Exact,
    Covering,
}

/// How the rows follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    /// One JSON list.
    #[default]
    List,
    /// A JSON object on each line.
    Lines,
}

impl Parameters {
    /// `peer`: whom the parameter of that name means.
    fn query(&self, peer: Option<PeersAt>) -> Result<RouteQuery, Refusal> {
        let view = match (self.view, peer) {
            (ViewName::Best, peer) => RouteView::Best(peer),
            (ViewName::Received, peer) => RouteView::Received(peer),
            (ViewName::Advertised, Some(peer)) => RouteView::Advertised(peer),
            (ViewName::Advertised, None) => return Err(Refusal::bad("view=advertised needs peer=ADDRESS")),
        };
        let prefix = self.prefix.as_deref().map(prefix).transpose()?.map(|p| match self.matching {
            Match::Longer => PrefixFilter::Longer(p),
            Match::Exact => PrefixFilter::Exact(p),
            Match::Covering => PrefixFilter::Covering(p),
        });
        let communities = self.community.as_deref().map_or(Ok(Vec::new()), |list| {
            list.split(',').map(bgp_plan::filters::community).collect::<Result<_, _>>().map_err(Refusal::bad)
        })?;
        Ok(RouteQuery { view, filter: RouteFilter { prefix, communities, from: None } })
    }
}

/// A prefix in a query; an address is one of its own length.
pub fn prefix(text: &str) -> Result<Prefix, Refusal> {
    let wrong = || Refusal::bad(format!("'{text}' is no prefix: use 10.0.0.0/8, 2001:db8::/32, or an address"));
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    Prefix::new(address, len.unwrap_or(if address.is_ipv4() { 32 } else { 128 })).ok_or_else(wrong)
}

/// Answers `/v1/routes`.
pub async fn routes(
    State(app): State<App>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(parameters) = parameters.map_err(|e| Refusal::bad(e.body_text()))?;
    let peer = match &parameters.peer {
        Some(text) => Some(whom(&app.speaker, text).await?),
        None => None,
    };
    let query = parameters.query(peer)?;
    let Some(first) = app.speaker.routes(query.clone(), Cursor::START).await else {
        return Err(match query.view {
            RouteView::Best(Some(peer)) | RouteView::Received(Some(peer)) | RouteView::Advertised(peer) => {
                Refusal::no_peer(peer.address, &app.speaker.peers().await)
            }
            RouteView::Best(None) | RouteView::Received(None) => Refusal::bad("the speaker is not running"),
        });
    };
    let kind = match parameters.format {
        Format::List => "application/json",
        Format::Lines => "application/x-ndjson",
    };
    let rows = Rows::new(app.speaker, query, parameters.format, first);
    let body = futures::stream::unfold(rows, |mut rows| async { Some((rows.next().await?, rows)) });
    Ok(([(CONTENT_TYPE, kind)], Body::from_stream(futures::StreamExt::map(body, Ok::<_, std::io::Error>)))
        .into_response())
}

/// The rows of an answer, as octets.
struct Rows {
    speaker: Handle,
    query: RouteQuery,
    format: Format,
    slices: VecDeque<RouteSlice>,
    next: Option<Cursor>,
    any: bool,
    done: bool,
}

impl Rows {
    fn new(speaker: Handle, query: RouteQuery, format: Format, first: RouteSlice) -> Rows {
        Rows { speaker, query, format, next: None, slices: VecDeque::from([first]), any: false, done: false }
    }

    /// Asks for the next slice only when the last one has been taken: a reader that is slow holds no more than that.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let Some((routes, next)) = self.slices.pop_front() else {
                let from = match self.next.take() {
                    Some(from) if !self.done => from,
                    _ => return self.end(),
                };
                // A peer that is gone meanwhile has no more routes.
                self.slices.push_back(self.speaker.routes(self.query.clone(), from).await.unwrap_or_default());
                continue;
            };
            self.next = next;
            if !routes.is_empty() {
                return Some(self.text(routes));
            }
        }
    }

    fn text(&mut self, routes: Vec<RouteInfo>) -> Bytes {
        let mut text = Vec::new();
        for route in routes {
            let separator: &[u8] = match (self.format, self.any) {
                (Format::Lines, _) => b"",
                (Format::List, false) => b"[",
                (Format::List, true) => b",",
            };
            self.any = true;
            text.extend_from_slice(separator);
            // A row holds nothing that could not be written as JSON.
            let _ = serde_json::to_writer(&mut text, &RouteStatus::from(route));
            text.push(b'\n');
        }
        text.into()
    }

    fn end(&mut self) -> Option<Bytes> {
        if std::mem::replace(&mut self.done, true) || self.format == Format::Lines {
            return None;
        }
        Some(if self.any { "]\n" } else { "[]\n" }.into())
    }
}

/// A row of `/v1/routes`; the fields are documented in `control`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    pub prefix: String,
    #[serde(flatten)]
    pub attributes: Shown,
    pub peer: Option<IpAddr>,
    pub path_id: u32,
    pub best: bool,
    pub stale: bool,
    pub accepted: bool,
}

/// The attributes of a route for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// `None`: a route of this node.
    pub next_hop: Option<IpAddr>,
    pub as_path: Vec<u32>,
    /// The same as operators write it: AS_SETs in braces.
    pub as_path_text: String,
    pub origin: &'static str,
    pub local_pref: Option<u32>,
    pub med: Option<u32>,
    pub communities: Vec<String>,
    pub originator_id: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
}

impl From<&Attributes> for Shown {
    fn from(attributes: &Attributes) -> Shown {
        let standard = attributes.communities().map(|c| format!("{}:{}", c >> 16, c & 0xffff));
        let large = attributes.large_communities().map(|[a, b, c]| format!("{a}:{b}:{c}"));
        Shown {
            next_hop: Some(attributes.next_hop).filter(|hop| !hop.is_unspecified()),
            as_path: attributes.ases().collect(),
            as_path_text: as_path::display(attributes.as_path()),
            origin: iana::origin_name(attributes.origin),
            local_pref: attributes.local_pref,
            med: attributes.med,
            communities: standard.chain(large).collect(),
            originator_id: attributes.originator_id(),
            cluster_list: attributes.cluster_list().map(Ipv4Addr::from).collect(),
        }
    }
}

impl From<RouteInfo> for RouteStatus {
    fn from(route: RouteInfo) -> RouteStatus {
        RouteStatus {
            prefix: route.prefix.to_string(),
            attributes: Shown::from(&route.attributes),
            peer: route.peer,
            path_id: route.path_id,
            best: route.best,
            stale: route.stale,
            accepted: route.accepted,
        }
    }
}
