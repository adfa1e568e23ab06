//! The gRPC methods: who asks, may they, and what do they get.

use super::counters::Counters;
use super::joining::JoinerDetails;
use super::leases::{Command, Leases};
use super::records::json;
use super::refusal::{Reason, ServiceError};
use super::registry::Registry;
use crate::ca::Authority;
use crate::model::policy::PolicyFile;
use crate::proto;
use crate::tls::{self, Peer};
use futures_util::{Stream, StreamExt};
use globalfs_proto::{GlobalPath, NodeName, PeerIdentity, SiteName};
use serde::de::DeserializeOwned;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Streaming};

/// The service behind the generated server.
#[derive(Clone)]
pub(crate) struct Rpc {
    pub(super) registry: Arc<Registry>,
    pub(super) authority: Arc<Authority>,
    pub(super) leases: Leases,
    pub(super) stop: CancellationToken,
}

type Reply<T> = Result<Response<T>, tonic::Status>;

#[tonic::async_trait]
impl proto::control_server::Control for Rpc {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Reply<proto::JoinReply> {
        self.answer(self.join_with_token(request.into_inner()).await)
    }

    async fn heartbeat(&self, request: Request<proto::HeartbeatRequest>) -> Reply<proto::HeartbeatReply> {
        self.answer(self.take_heartbeat(request).await)
    }

    type LeaseStream = Pin<Box<dyn Stream<Item = Result<proto::LeaseMessage, tonic::Status>> + Send>>;

    async fn lease(&self, request: Request<Streaming<proto::LeaseMessage>>) -> Reply<Self::LeaseStream> {
        self.answer(self.open_leases(request).await)
    }

    async fn abandon(&self, request: Request<proto::PathRequest>) -> Reply<proto::Done> {
        let abandon = async {
            self.admin(&request).await?;
            let path = GlobalPath::try_from(request.into_inner().path);
            let path = path.map_err(|error| ServiceError::Invalid(error.to_string()))?;
            self.leases.ask(|done| Command::Abandon { path, done }).await
        };
        self.answer(abandon.await.map(|()| proto::Done {}))
    }

    async fn send_home(&self, request: Request<proto::SendHomeRequest>) -> Reply<proto::Done> {
        let send = async {
            self.admin(&request).await?;
            let what = parse("request", &request.get_ref().request)?;
            self.leases.ask(|done| Command::SendHome { what, done }).await
        };
        self.answer(send.await.map(|()| proto::Done {}))
    }

    async fn create_token(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Reply<proto::CreateTokenReply> {
        self.answer(self.make_token(request).await)
    }

    async fn remove_site(&self, request: Request<proto::SiteRequest>) -> Reply<proto::Done> {
        let remove = async {
            self.admin(&request).await?;
            self.registry.remove_site(&name(SiteName::new, &request.get_ref().name)?).await
        };
        self.answer(remove.await.map(|()| proto::Done {}))
    }

    async fn remove_node(&self, request: Request<proto::NodeRequest>) -> Reply<proto::Done> {
        let remove = async {
            self.admin(&request).await?;
            let (node, site) = (&request.get_ref().name, &request.get_ref().site);
            self.registry.remove_node(&name(NodeName::new, node)?, &name(SiteName::new, site)?).await
        };
        self.answer(remove.await.map(|()| proto::Done {}))
    }

    async fn set_policies(&self, request: Request<proto::SetPoliciesRequest>) -> Reply<proto::Done> {
        let set = async {
            self.admin(&request).await?;
            let file: PolicyFile = parse("policies", &request.get_ref().policies)?;
            self.registry.set_policies(file.policies).await
        };
        self.answer(set.await.map(|()| proto::Done {}))
    }

    async fn view(&self, request: Request<proto::Nothing>) -> Reply<proto::ViewReply> {
        let view = async {
            self.member(&request).await?;
            self.registry.view().await
        };
        self.answer(view.await.map(|view| proto::ViewReply { view: json(&view) }))
    }

    async fn status(&self, request: Request<proto::Nothing>) -> Reply<proto::StatusReply> {
        let status = async {
            self.member(&request).await?;
            self.registry.status().await
        };
        self.answer(status.await.map(|status| proto::StatusReply { status: json(&status) }))
    }
}

impl Rpc {
    /// Counts and logs how a request ended.
    fn answer<T>(&self, result: Result<T, ServiceError>) -> Reply<T> {
        let counters = &self.registry.counters;
        Counters::raise(&counters.requests);
        match &result {
            Ok(_) => {}
            Err(ServiceError::Refused(_, reason)) => {
                Counters::raise(&counters.refusals);
                tracing::info!(reason, "refused a request");
            }
            Err(error) => {
                Counters::raise(&counters.errors);
                tracing::warn!(%error, "a request failed");
            }
        }
        result.map(Response::new).map_err(Into::into)
    }

    async fn join_with_token(&self, request: proto::JoinRequest) -> Result<proto::JoinReply, ServiceError> {
        let joiner = parse("joiner", &request.joiner)?;
        let details = JoinerDetails { joiner, endpoint: request.endpoint, address: request.address };
        let issued = self.registry.join(&self.authority, &request.token, &details, &request.csr).await?;
        let view = json(&self.registry.view().await?);
        Ok(proto::JoinReply {
            certificate: issued.certificate,
            ca: self.authority.certificate().into(),
            view,
        })
    }

    async fn take_heartbeat(
        &self,
        request: Request<proto::HeartbeatRequest>,
    ) -> Result<proto::HeartbeatReply, ServiceError> {
        let site = match self.member(&request).await?.identity {
            PeerIdentity::Site(site) => site,
            other => return Err(not_permitted(&other, "only sites send heartbeats")),
        };
        let request = request.into_inner();
        let health = parse("health", &request.health)?;
        let view = self.registry.heartbeat(&site, health, request.address, request.known_revision).await?;
        let interval = self.registry.options.timing.heartbeat_interval;
        Ok(proto::HeartbeatReply {
            view: view.as_ref().map(json),
            interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// The messages of one site go to the driver, and its to the site, until either leaves.
    async fn open_leases(
        &self,
        request: Request<Streaming<proto::LeaseMessage>>,
    ) -> Result<<Self as proto::control_server::Control>::LeaseStream, ServiceError> {
        let site = match self.member(&request).await?.identity {
            PeerIdentity::Site(site) => site,
            other => return Err(not_permitted(&other, "only sites hold leases")),
        };
        let down = self.leases.connect(site.clone()).await?;
        let (leases, mut up, stop) = (self.leases.clone(), request.into_inner(), self.stop.clone());
        let listening = async move {
            while let Ok(Some(message)) = up.message().await {
                match serde_json::from_str(&message.message) {
                    Ok(up) => leases.send(Command::Up { site: site.clone(), up }).await,
                    Err(error) => tracing::warn!(%site, %error, "a message about leases is not understood"),
                }
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(listening));
        let told = ReceiverStream::new(down).map(|down| Ok(proto::LeaseMessage { message: json(&down) }));
        Ok(Box::pin(told.take_until(stop.cancelled_owned())))
    }

    async fn make_token(
        &self,
        request: Request<proto::CreateTokenRequest>,
    ) -> Result<proto::CreateTokenReply, ServiceError> {
        self.admin(&request).await?;
        let (joiner, ttl) = (parse("joiner", &request.get_ref().joiner)?, request.get_ref().ttl_ms);
        let fingerprint = self.authority.fingerprint();
        let token = self.registry.create_token(joiner, Duration::from_millis(ttl), fingerprint).await?;
        Ok(proto::CreateTokenReply { token: token.reveal() })
    }

    /// The peer, when its certificate and its record are in order.
    async fn member<T>(&self, request: &Request<T>) -> Result<Peer, ServiceError> {
        let refused = |text: &str| ServiceError::Refused(Reason::NoCertificate, text.to_owned());
        let certificates = request.peer_certs();
        let first = certificates.as_ref().and_then(|all| all.first());
        let first = first.ok_or_else(|| refused("this needs a certificate; join the cluster first"))?;
        let peer = tls::peer_of(first).map_err(|reason| refused(&reason))?;
        self.registry.authenticate(&peer).await?;
        Ok(peer)
    }

    async fn admin<T>(&self, request: &Request<T>) -> Result<(), ServiceError> {
        match self.member(request).await?.identity {
            PeerIdentity::Admin => Ok(()),
            other => Err(not_permitted(&other, "only an administrator may do this")),
        }
    }
}

fn not_permitted(who: &PeerIdentity, rule: &str) -> ServiceError {
    let hint = "use the certificate in the directory 'admin' of the coordinator's data directory";
    ServiceError::Refused(Reason::NotPermitted, format!("{rule}, and this is {who}; {hint}"))
}

fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, ServiceError> {
    serde_json::from_str(text).map_err(|error| ServiceError::Invalid(format!("{what}: {error}")))
}

fn name<T>(
    new: impl Fn(&str) -> Result<T, globalfs_proto::NameError>,
    text: &str,
) -> Result<T, ServiceError> {
    new(text).map_err(|error| ServiceError::Invalid(error.to_string()))
}
