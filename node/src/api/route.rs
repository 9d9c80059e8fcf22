//! Which endpoint a request means: the method and the path, with its names parsed.

use http::{Method, Uri};
use macula_proto::name::{ProcedureName, TopicName, TopicPattern};
use macula_proto::{Code, Fault};

use super::Surface;
use super::problem::Problem;
use crate::metrics::Endpoint;
use crate::peer::Target;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Publish(TopicName),
    Subscribe(TopicPattern),
    Call(ProcedureName),
    Advertise(ProcedureName),
    Withdraw(ProcedureName),
    Status,
    Live,
    Ready,
    Metrics,
    Ping(Target),
}

impl Route {
    /// Whether it needs the mesh, and so a node that has joined it.
    pub(super) fn needs_mesh(&self) -> bool {
        match self {
            Self::Publish(_)
            | Self::Subscribe(_)
            | Self::Call(_)
            | Self::Advertise(_)
            | Self::Withdraw(_) => true,
            // To ping is how a person finds out why the node has not joined.
            Self::Ping(_) | Self::Status | Self::Live | Self::Ready | Self::Metrics => false,
        }
    }
}

/// Parses a request's method and target.
pub(super) fn parse(surface: Surface, method: &Method, uri: &Uri) -> Result<Route, Problem> {
    let path = uri.path();
    let (route, allow) = match path {
        "/healthz/live" => (Route::Live, READ),
        "/healthz/ready" => (Route::Ready, READ),
        "/metrics" => (Route::Metrics, READ),
        _ if surface == Surface::Admin => {
            let because = "this address has /healthz/live, /healthz/ready and /metrics only";
            return Err(Problem::new(Code::NotFound, because));
        }
        "/v1/status" => (Route::Status, READ),
        _ => return parse_application(method, uri),
    };
    if *method == Method::GET || *method == Method::HEAD {
        Ok(route)
    } else {
        Err(Problem::method_not_allowed(allow))
    }
}

const READ: &str = "GET, HEAD";

fn parse_application(method: &Method, uri: &Uri) -> Result<Route, Problem> {
    let path = uri.path();
    if let Some(topic) = path.strip_prefix("/v1/publish/") {
        only(method, &Method::POST, "POST")?;
        return Ok(Route::Publish(topic.parse()?));
    }
    if let Some(procedure) = path.strip_prefix("/v1/call/") {
        only(method, &Method::POST, "POST")?;
        return Ok(Route::Call(procedure.parse()?));
    }
    if let Some(procedure) = path.strip_prefix("/v1/advertise/") {
        return match *method {
            Method::PUT => Ok(Route::Advertise(procedure.parse()?)),
            Method::DELETE => Ok(Route::Withdraw(procedure.parse()?)),
            _ => Err(Problem::method_not_allowed("PUT, DELETE")),
        };
    }
    if let Some(target) = path.strip_prefix("/v1/ping/") {
        only(method, &Method::POST, "POST")?;
        let refuse = |fault: Fault| Problem::new(Code::InvalidRequest, fault.because);
        return Ok(Route::Ping(target.parse().map_err(refuse)?));
    }
    if path == "/v1/subscribe" {
        only(method, &Method::GET, "GET")?;
        return Ok(Route::Subscribe(pattern(uri)?));
    }
    let planned = ["/v1/ws", "/v1/openapi.json"].into_iter().find(|planned| path == *planned);
    let planned = planned.or(path.starts_with("/v1/subscriptions/").then_some("/v1/subscriptions"));
    match planned {
        Some(planned) => {
            let because = format!("{planned} is planned, and this version does not have it");
            Err(Problem::new(Code::Unsupported, because))
        }
        None => Err(Problem::new(Code::NotFound, "no endpoint has this path")),
    }
}

fn only(method: &Method, wanted: &Method, allow: &'static str) -> Result<(), Problem> {
    if method == wanted { Ok(()) } else { Err(Problem::method_not_allowed(allow)) }
}

/// The one `topic` of a subscription's query.
fn pattern(uri: &Uri) -> Result<TopicPattern, Problem> {
    let refuse = |because: String| Problem::new(Code::InvalidRequest, because);
    let mut found = None;
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name != "topic" {
            let name: String = name.chars().take(40).collect();
            return Err(refuse(format!("the query has {name:?}; `topic` is all it may have")));
        }
        if found.replace(value).is_some() {
            return Err(refuse("the query has `topic` twice; open a stream for each".to_owned()));
        }
    }
    let pattern = found
        .ok_or_else(|| refuse("the query lacks `topic`: /v1/subscribe?topic=a.**".to_owned()))?;
    Ok(pattern.parse()?)
}

/// The endpoint that a path counts as, whatever comes of it.
pub(super) fn endpoint(path: &str) -> Endpoint {
    const PREFIXES: [(&str, Endpoint); 5] = [
        ("/v1/ping/", Endpoint::Ping),
        ("/v1/publish/", Endpoint::Publish),
        ("/v1/call/", Endpoint::Call),
        ("/v1/advertise/", Endpoint::Advertise),
        ("/healthz/", Endpoint::Health),
    ];
    match path {
        "/v1/subscribe" => Endpoint::Subscribe,
        "/v1/status" => Endpoint::Status,
        "/metrics" => Endpoint::Metrics,
        _ => {
            let known = PREFIXES.iter().find(|(prefix, _)| path.starts_with(prefix));
            known.map_or(Endpoint::Other, |(_, endpoint)| *endpoint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(surface: Surface, method: Method, uri: &'static str) -> Result<Route, Code> {
        parse(surface, &method, &Uri::from_static(uri)).map_err(|problem| problem.code())
    }

    fn application(method: Method, uri: &'static str) -> Result<Route, Code> {
        on(Surface::Application, method, uri)
    }

    #[test]
    fn every_endpoint_has_its_route() {
        let name = || "a.b".parse().unwrap();
        for (method, uri, route) in [
            (Method::POST, "/v1/publish/a.b", Route::Publish("a.b".parse().unwrap())),
            (Method::GET, "/v1/subscribe?topic=a.**", Route::Subscribe("a.**".parse().unwrap())),
            (Method::GET, "/v1/subscribe?topic=a.%2A", Route::Subscribe("a.*".parse().unwrap())),
            (Method::POST, "/v1/call/a.b", Route::Call(name())),
            (Method::PUT, "/v1/advertise/a.b", Route::Advertise(name())),
            (Method::DELETE, "/v1/advertise/a.b", Route::Withdraw(name())),
            (
                Method::POST,
                "/v1/ping/10.0.0.1:9443",
                Route::Ping(Target::Address("10.0.0.1:9443".parse().unwrap())),
            ),
            (Method::GET, "/v1/status", Route::Status),
            (Method::HEAD, "/v1/status", Route::Status),
            (Method::GET, "/healthz/live", Route::Live),
            (Method::GET, "/healthz/ready", Route::Ready),
            (Method::GET, "/metrics", Route::Metrics),
        ] {
            assert_eq!(application(method, uri), Ok(route), "{uri}");
        }
    }

    #[test]
    fn refuses_by_name_what_is_not_there() {
        for (method, uri, code) in [
            (Method::GET, "/", Code::NotFound),
            (Method::GET, "/v1/subscribe/a", Code::NotFound),
            (Method::GET, "/healthz/outbound", Code::NotFound),
            (Method::GET, "/v1/publish/a", Code::MethodNotAllowed),
            (Method::OPTIONS, "/v1/call/a", Code::MethodNotAllowed),
            (Method::POST, "/v1/advertise/a", Code::MethodNotAllowed),
            (Method::POST, "/metrics", Code::MethodNotAllowed),
            (Method::HEAD, "/v1/subscribe?topic=a", Code::MethodNotAllowed),
            (Method::POST, "/v1/publish/", Code::InvalidName),
            (Method::POST, "/v1/publish/a/b", Code::InvalidName),
            (Method::POST, "/v1/publish/a.*", Code::InvalidName),
            (Method::POST, "/v1/publish/%61", Code::InvalidName),
            (Method::POST, "/v1/call/a..b", Code::InvalidName),
            (Method::GET, "/v1/subscribe?topic=a.**.b", Code::InvalidName),
            (Method::GET, "/v1/subscribe", Code::InvalidRequest),
            (Method::GET, "/v1/subscribe?topic=a&topic=b", Code::InvalidRequest),
            (Method::GET, "/v1/subscribe?topic=a&from=1", Code::InvalidRequest),
            (Method::POST, "/v1/ping/localhost:1", Code::InvalidRequest),
            (Method::POST, "/v1/ping/10.0.0.1:0", Code::InvalidRequest),
            (Method::GET, "/v1/ping/10.0.0.1:1", Code::MethodNotAllowed),
            (Method::GET, "/v1/ws", Code::Unsupported),
            (Method::PUT, "/v1/subscriptions/mine", Code::Unsupported),
            (Method::GET, "/v1/openapi.json", Code::Unsupported),
        ] {
            assert_eq!(application(method, uri), Err(code), "{uri}");
        }
    }

    #[test]
    fn the_admin_address_has_health_and_metrics_only() {
        for uri in ["/healthz/live", "/healthz/ready", "/metrics"] {
            assert!(on(Surface::Admin, Method::GET, uri).is_ok(), "{uri}");
        }
        for uri in ["/v1/status", "/v1/subscribe?topic=a", "/v1/ws"] {
            assert_eq!(on(Surface::Admin, Method::GET, uri), Err(Code::NotFound), "{uri}");
        }
    }
}
