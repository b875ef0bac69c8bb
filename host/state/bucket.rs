//! State in a cloud's bucket. Credentials and endpoints come from the cloud's own environment variables.

use std::sync::Arc;

use object_store::{ObjectStore, Result};
use url::Url;

/// Opens the bucket of a URL.
#[cfg(feature = "cloud")]
pub fn open(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    use object_store::aws::AmazonS3Builder;
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    use object_store::prefix::PrefixStore;
    use object_store::{Error, ObjectStoreScheme, RetryConfig};

    // A request that hangs fails before a liveness probe would. `super::patient` retries it.
    let retry =
        RetryConfig { max_retries: 3, retry_timeout: std::time::Duration::from_secs(10), ..RetryConfig::default() };
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let store: Arc<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => {
            Arc::new(AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry).build()?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            Arc::new(GoogleCloudStorageBuilder::from_env().with_url(url.as_str()).with_retry(retry).build()?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            Arc::new(MicrosoftAzureBuilder::from_env().with_url(url.as_str()).with_retry(retry).build()?)
        }
        other => {
            let source = format!("{other:?} is not a bucket; use s3://, gs:// or az://").into();
            return Err(Error::Generic { store: "state", source });
        }
    };
    Ok(Arc::new(PrefixStore::new(store, path)))
}

/// Fails: the configuration refuses such URLs in this build.
#[cfg(not(feature = "cloud"))]
pub fn open(url: &Url) -> Result<Arc<dyn ObjectStore>> {
    let source =
        format!("cannot open {url}: this build has no cloud storage; build keyfold with the feature `cloud`").into();
    Err(object_store::Error::Generic { store: "state", source })
}
