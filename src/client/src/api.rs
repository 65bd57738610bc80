//! Typed requests on one collection: [`kube::Api`]'s verbs with one way of decoding.
//!
//! kube reads an answer through a decoder of its own for each kind of answer, and each costs a copy of the code for
//! every type and all it holds: half of the executable, once. Here every typed object of the process, in an answer or
//! a watch, is read from bytes by [`decode`]. Objects whose type is known at run time only go through [`kube::Api`].

use std::fmt;
use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::{Request, request};
use kube::{Client, Error, Resource, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The objects of type `K`, of one namespace or all. Cheap to clone.
pub struct Api<K> {
    client: Client,
    request: Request,
    kind: PhantomData<fn() -> K>,
}

impl<K> Clone for Api<K> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), request: self.request.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Api<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Api").field(&self.request.url_path).finish()
    }
}

/// The items of a list.
#[derive(Deserialize)]
struct Items<K> {
    #[serde(default = "Option::default")]
    items: Option<Vec<K>>,
}

impl<K: Resource<DynamicType = ()>> Api<K> {
    /// All objects of a cluster-scoped kind, or of all namespaces.
    pub fn all(client: Client) -> Self {
        Self::at(client, None)
    }

    pub fn namespaced(client: Client, namespace: &str) -> Self
    where
        K: Resource<Scope = NamespaceResourceScope>,
    {
        Self::at(client, Some(namespace))
    }

    fn at(client: Client, namespace: Option<&str>) -> Self {
        Self { client, request: Request::new(K::url_path(&(), namespace)), kind: PhantomData }
    }
}

impl<K: DeserializeOwned> Api<K> {
    pub async fn get(&self, name: &str) -> Result<K> {
        self.answer(self.request.get(name, &GetParams::default())).await
    }

    /// `None` when there is no such object.
    pub async fn get_opt(&self, name: &str) -> Result<Option<K>> {
        crate::retry::optional(self.get(name).await)
    }

    /// All objects that the parameters select, in one answer.
    pub async fn list(&self, params: &ListParams) -> Result<Vec<K>> {
        let answer = send(&self.client, self.request.list(params)).await?;
        Ok(decode::<Items<K>>(&answer)?.items.unwrap_or_default())
    }

    pub async fn create(&self, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.answer(self.request.create(params, encode(object)?)).await
    }

    pub async fn replace(&self, name: &str, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.answer(self.request.replace(name, params, encode(object)?)).await
    }

    pub async fn replace_status(&self, name: &str, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.replace_subresource("status", name, params, object).await
    }

    pub async fn replace_subresource(&self, part: &str, name: &str, params: &PostParams, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.answer(self.request.replace_subresource(part, name, params, encode(object)?)).await
    }

    pub async fn patch<P: Serialize + fmt::Debug>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        self.answer(self.request.patch(name, params, patch)).await
    }

    pub async fn patch_status<P: Serialize + fmt::Debug>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<K> {
        self.answer(self.request.patch_subresource("status", name, params, patch)).await
    }

    async fn answer(&self, request: std::result::Result<http::Request<Vec<u8>>, request::Error>) -> Result<K> {
        decode(&send(&self.client, request).await?)
    }
}

impl<K> Api<K> {
    /// Asks for the object's deletion. Whether it is gone at once is the server's to decide.
    pub async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        send(&self.client, self.request.delete(name, params)).await.map(drop)
    }

    /// Posts to a part of an object, such as a pod's `binding`. The answer is `T`.
    pub async fn create_subresource<T: DeserializeOwned>(
        &self,
        part: &str,
        name: &str,
        params: &PostParams,
        body: &impl Serialize,
    ) -> Result<T> {
        decode(&send(&self.client, self.request.create_subresource(part, name, params, encode(body)?)).await?)
    }
}

impl Api<ServiceAccount> {
    /// Asks for a token of the account.
    pub async fn create_token_request(&self, name: &str, request: &TokenRequest) -> Result<TokenRequest> {
        self.create_subresource("token", name, &PostParams::default(), request).await
    }
}

async fn send(client: &Client, request: std::result::Result<http::Request<Vec<u8>>, request::Error>) -> Result<String> {
    client.request_text(request.map_err(Error::BuildRequest)?).await
}

fn encode(object: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(object).map_err(Error::SerdeError)
}

/// Reads a typed object, from bytes as all of them are.
pub(crate) fn decode<T: DeserializeOwned>(json: impl AsRef<[u8]>) -> Result<T> {
    serde_json::from_slice(json.as_ref()).map_err(Error::SerdeError)
}
