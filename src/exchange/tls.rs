//! TLS to an exchange: rustls on ring, with the machine's root certificates.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore};

/// The one configuration of this process. The first call reads the machine's root certificates.
pub(super) fn client_config() -> Arc<ClientConfig> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    Arc::clone(CONFIG.get_or_init(|| Arc::new(load())))
}

fn load() -> ClientConfig {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        // Not an error yet: ws:// and http:// bases need no roots.
        tracing::warn!("no root certificates found: wss:// and https:// will fail; install ca-certificates");
    }
    tracing::debug!(added, ignored, errors = ?found.errors, "loaded root certificates");
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth()
}
