//! Tokens and those who join with them.
//!
//! *Invariants:* burning a token and writing its joiner's record is one transaction; a repeated request
//! changes no record and never brings back a member that was removed.

use super::counters::Counters;
use super::records::{Held, delete, next_view, replace};
use super::refusal::{Reason, ServiceError};
use super::registry::{Registry, not_registered, now};
use crate::ca::{Authority, Issued};
use crate::model::record::{
    Health, MAX_ADDRESS_BYTES, MAX_NODES, NODES_PREFIX, NodeRecord, SiteRecord, SiteStatus, TOKENS_PREFIX,
    address_fault,
};
use crate::model::token::{Admission, JoinToken, Joiner, TokenError, TokenRecord, TokenUse};
use crate::store::Txn;
use crate::tls::Peer;
use globalfs_proto::{NodeName, SiteName};
use std::time::Duration;

/// Most tokens, those that expired within the last day included.
pub const MAX_TOKENS: usize = 4096;
/// Longest time that a token is valid.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Time for which an expired token is remembered, so that its user learns that it expired.
const EXPIRED_TOKEN_KEPT: Duration = Duration::from_secs(24 * 3600);

/// What a joiner says of itself.
#[derive(Debug, Clone)]
pub(crate) struct JoinerDetails {
    pub(crate) joiner: Joiner,
    pub(crate) endpoint: String,
    pub(crate) address: String,
}

impl Registry {
    /// Makes a token for `joiner`; its text is never seen again.
    pub(crate) async fn create_token(
        &self,
        joiner: Joiner,
        ttl: Duration,
        ca_fingerprint: &str,
    ) -> Result<JoinToken, ServiceError> {
        self.check_declared(&joiner)?;
        if ttl.is_zero() || ttl > MAX_TOKEN_TTL {
            return Err(ServiceError::Invalid("a token is valid for more than 0 and at most 30 days".into()));
        }
        if self.forget_expired_tokens().await? >= MAX_TOKENS {
            return Err(ServiceError::Invalid(format!(
                "there are {MAX_TOKENS} tokens; let some of them expire"
            )));
        }
        let token = JoinToken::new(rand::random(), rand::random(), ca_fingerprint);
        let record = TokenRecord {
            id: token.id.clone(),
            joiner,
            secret_hash: token.secret_hash(),
            created_at: now(),
            expires_at: now().after(ttl),
            used: None,
        };
        let txn = replace(Txn::new(), &TokenRecord::key(&token.id), None::<&Held<()>>, &record)?;
        if self.records.commit(txn).await? { Ok(token) } else { Err(ServiceError::Contended) }
    }

    /// Certifies the key of `csr` for the name that the token permits.
    pub(crate) async fn join(
        &self,
        authority: &Authority,
        token: &str,
        details: &JoinerDetails,
        csr: &str,
    ) -> Result<Issued, ServiceError> {
        let token = JoinToken::parse(token)?;
        let key_fingerprint = Authority::request_key_fingerprint(csr)?;
        check_details(details)?;
        self.change(|cluster| {
            let (token, key) = (token.clone(), key_fingerprint.clone());
            async move {
                let admitted = self.admit(&token, details, &key).await?;
                let Some(txn) = admitted else { return Ok(Txn::new()) };
                self.put_member(merge(txn, next_view(&cluster)?), details, key).await
            }
        })
        .await?;
        let issued = authority.issue(&details.joiner.identity(), csr)?;
        Counters::raise(&self.counters.joins);
        tracing::info!(joiner = %details.joiner, "joined");
        Ok(issued)
    }

    /// The transaction that burns the token; `None` when the same key joined with it before.
    async fn admit(
        &self,
        token: &JoinToken,
        details: &JoinerDetails,
        key_fingerprint: &str,
    ) -> Result<Option<Txn>, ServiceError> {
        let key = TokenRecord::key(&token.id);
        let held = self.records.get::<TokenRecord>(&key).await?.ok_or(TokenError::Unknown)?;
        match held.value.admit(token, &details.joiner, key_fingerprint, now())? {
            Admission::First => {
                self.check_declared(&details.joiner)?;
                let used = TokenUse { at: now(), key_fingerprint: key_fingerprint.to_owned() };
                let record = TokenRecord { used: Some(used), ..held.value.clone() };
                replace(Txn::new(), &key, Some(&held), &record).map(Some)
            }
            Admission::Repeated => {
                let identity = details.joiner.identity();
                let peer =
                    Peer { identity, key_fingerprint: key_fingerprint.to_owned(), expires_at_unix_s: 0 };
                self.authenticate(&peer).await.map(|()| None)
            }
        }
    }

    async fn put_member(&self, txn: Txn, details: &JoinerDetails, key: String) -> Result<Txn, ServiceError> {
        match &details.joiner {
            Joiner::Site { name } => self.put_site(txn, name, details, key).await,
            Joiner::Node { name, site } => self.put_node(txn, name, site, key).await,
        }
    }

    async fn put_site(
        &self,
        txn: Txn,
        name: &SiteName,
        details: &JoinerDetails,
        key_fingerprint: String,
    ) -> Result<Txn, ServiceError> {
        let declared = self.options.sites.iter().find(|site| site.name == *name);
        let role = declared.ok_or_else(|| not_declared(name))?.role;
        let held = self.records.get::<SiteRecord>(&SiteRecord::key(name)).await?;
        let record = SiteRecord {
            name: name.clone(),
            status: SiteStatus::Active,
            role,
            endpoint: details.endpoint.clone(),
            address: details.address.clone(),
            health: Health::default(),
            last_heartbeat: now(),
            registered_at: held.as_ref().map_or_else(now, |held| held.value.registered_at),
            key_fingerprint,
        };
        replace(txn, &SiteRecord::key(name), held.as_ref(), &record)
    }

    async fn put_node(
        &self,
        txn: Txn,
        name: &NodeName,
        site: &SiteName,
        key_fingerprint: String,
    ) -> Result<Txn, ServiceError> {
        let key = NodeRecord::key(site, name);
        let held = self.records.get::<NodeRecord>(&key).await?;
        if held.is_none() && self.records.range::<NodeRecord>(NODES_PREFIX).await?.len() >= MAX_NODES {
            return Err(ServiceError::Invalid(format!(
                "the cluster has {MAX_NODES} nodes; remove some first"
            )));
        }
        if self.records.get::<SiteRecord>(&SiteRecord::key(site)).await?.is_none() {
            return Err(not_registered(format!(
                "site {site} is not registered; register it before its nodes"
            )));
        }
        let registered_at = held.as_ref().map_or_else(now, |held| held.value.registered_at);
        let record = NodeRecord { name: name.clone(), site: site.clone(), registered_at, key_fingerprint };
        replace(txn, &key, held.as_ref(), &record)
    }

    fn check_declared(&self, joiner: &Joiner) -> Result<(), ServiceError> {
        let (Joiner::Site { name: site } | Joiner::Node { site, .. }) = joiner;
        if self.site_names().contains(site) { Ok(()) } else { Err(not_declared(site)) }
    }

    /// Deletes tokens that expired long ago and counts the others.
    async fn forget_expired_tokens(&self) -> Result<usize, ServiceError> {
        let tokens = self.records.range::<TokenRecord>(TOKENS_PREFIX).await?;
        let (expired, valid): (Vec<_>, Vec<_>) =
            tokens.into_iter().partition(|held| held.value.expires_at.after(EXPIRED_TOKEN_KEPT) <= now());
        for held in expired {
            self.records.commit(delete(Txn::new(), &TokenRecord::key(&held.value.id), &held)?).await?;
        }
        Ok(valid.len())
    }
}

fn not_declared(site: &SiteName) -> ServiceError {
    let message =
        format!("site '{site}' is not in the coordinator's configuration; add it under 'sites' there");
    ServiceError::Refused(Reason::NotDeclared, message)
}

fn merge(mut first: Txn, second: Txn) -> Txn {
    first.conditions.extend(second.conditions);
    first.operations.extend(second.operations);
    first
}

/// Nodes have neither address nor endpoint; sites need both.
fn check_details(details: &JoinerDetails) -> Result<(), ServiceError> {
    let Joiner::Site { .. } = details.joiner else { return Ok(()) };
    let endpoint_fault = || match details.endpoint.len() {
        0 => Some("a site needs an endpoint such as file:///mnt/origin".to_owned()),
        length if length > MAX_ADDRESS_BYTES => {
            Some(format!("an endpoint has at most {MAX_ADDRESS_BYTES} bytes"))
        }
        _ => None,
    };
    address_fault(&details.address)
        .or_else(endpoint_fault)
        .map_or(Ok(()), |fault| Err(ServiceError::Invalid(fault)))
}
