//! Host names to addresses, without the C library. An IP address needs no resolver; the first name starts one from
//! the host's resolv.conf and hosts file.

use std::net::IpAddr;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use tokio::sync::OnceCell;

#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error("the host's resolver configuration cannot be used")]
    Configuration(#[source] NetError),
    #[error("look-up of {name:?} failed")]
    Lookup { name: String, source: NetError },
}

#[derive(Default)]
pub(crate) struct Resolver {
    names: OnceCell<TokioResolver>,
}

impl Resolver {
    pub(crate) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let resolver = self.names.get_or_try_init(|| async { system() }).await?;
        let lookup = |source| ResolveError::Lookup { name: host.to_owned(), source };
        Ok(resolver.lookup_ip(host).await.map_err(lookup)?.iter().collect())
    }
}

fn system() -> Result<TokioResolver, ResolveError> {
    TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(ResolveError::Configuration)
}
