//! Certificate signing over the stream's connection.

use std::pin::Pin;
use std::time::Duration;

use mesh_model::Identity;
use tonic::Code;

use super::Shared;
use super::connect::{ConnectError, authorization, control};
use crate::proto;

/// So long a signing call waits for a connection …
const CONNECTION: Duration = Duration::from_secs(10);
/// … and so long for its answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No connection to the controller came up in time.
    #[error("no connection to the controller{}", .0.as_deref().map(|error| format!(" ({error})")).unwrap_or_default())]
    NotConnected(Option<String>),
    /// The call could not be made.
    #[error("the request could not be sent")]
    Connect(#[source] Box<ConnectError>),
    /// This node may not have that identity, or the token is not accepted. Trying again helps only after something
    /// changed.
    #[error("the controller refused to sign: {0}")]
    Refused(String),
    /// The controller could not sign; trying again may help.
    #[error("the controller could not sign: {0}")]
    Failed(String),
}

pub(super) async fn sign(shared: &Shared, identity: &Identity, csr_pem: &str) -> Result<String, SignError> {
    let mut channels = shared.channel.subscribe();
    let channel = match tokio::time::timeout(CONNECTION, channels.wait_for(Option::is_some)).await {
        Ok(Ok(channel)) => channel.clone(),
        Ok(Err(_)) | Err(_) => None,
    };
    let channel = channel.ok_or_else(|| SignError::NotConnected(shared.status().last_error.clone()))?;
    let authorization =
        authorization(&shared.config.token_file).await.map_err(|e| SignError::Connect(Box::new(e)))?;
    let mut request =
        tonic::Request::new(proto::SignRequest { identity: identity.to_string(), csr: csr_pem.into() });
    request.metadata_mut().insert("authorization", authorization);
    let mut control = control(channel);
    match tokio::time::timeout(ANSWER, control.sign(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner().chain),
        Ok(Err(status)) => Err(match status.code() {
            Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
                SignError::Refused(status.message().into())
            }
            _ => SignError::Failed(status.message().into()),
        }),
        Err(_) => Err(SignError::Failed(format!("no answer within {} s", ANSWER.as_secs()))),
    }
}

/// A keyring gets its certificates over the stream's connection.
impl mesh_identity::Signer for super::Client {
    fn sign(
        &self,
        identity: Identity,
        csr_pem: String,
    ) -> Pin<Box<dyn Future<Output = Result<String, mesh_identity::SignError>> + Send>> {
        let shared = self.shared.clone();
        Box::pin(async move {
            let signed = sign(&shared, &identity, &csr_pem).await;
            signed.map_err(|error| mesh_identity::SignError(crate::chain(&error)))
        })
    }
}
