//! Clients, by the configuration of a store.

use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};

use super::call::{INIT_BACKOFF, MAX_BACKOFF};
use super::errors;
use super::http::Connector;
use crate::store::config::StoreConfig;
use crate::store::place::Service;
use crate::store::url::Scheme;

/// Makes a client, and tells what serves it. Nothing is sent yet.
///
/// The message of an error may have secrets in it.
pub(super) fn build(config: &StoreConfig) -> Result<(Arc<dyn ObjectStore>, Service), String> {
    let failed = |error: object_store::Error| errors::text(&error);
    Ok(match config.url().scheme() {
        Scheme::S3 => {
            let builder = s3(config)?;
            let service = s3_service(&builder, config.url().bucket());
            (Arc::new(builder.build().map_err(failed)?), service)
        }
        Scheme::Gcs => {
            let builder = gcs(config)?;
            let service = gcs_service(&builder);
            (Arc::new(builder.build().map_err(failed)?), service)
        }
        Scheme::Azure => {
            let builder = azure(config)?;
            let service = azure_service(&builder);
            (Arc::new(builder.build().map_err(failed)?), service)
        }
        Scheme::File => return Err("a directory needs no client".to_owned()),
    })
}

/// As the client decides when it is built: what is said for S3 comes before what is said for all of Amazon's services.
fn s3_service(builder: &AmazonS3Builder, bucket: &str) -> Service {
    let value = |key| builder.get_config_value(&key);
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or(value(AmazonS3ConfigKey::Endpoint));
    let region = value(AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let hosted = value(AmazonS3ConfigKey::VirtualHostedStyleRequest).is_some_and(|h| is_on(&h));
    let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    Service::s3(&endpoint, hosted.then_some(bucket))
}

/// A service account's file may name another server, for tests; it is not read for that.
fn gcs_service(builder: &GoogleCloudStorageBuilder) -> Service {
    let endpoint = builder.get_config_value(&GoogleConfigKey::BaseUrl);
    Service::new(
        endpoint
            .as_deref()
            .unwrap_or("https://storage.googleapis.com"),
        None,
    )
}

fn azure_service(builder: &MicrosoftAzureBuilder) -> Service {
    let value = |key| builder.get_config_value(&key);
    let account = value(AzureConfigKey::AccountName);
    if value(AzureConfigKey::UseEmulator).is_some_and(|emulator| is_on(&emulator)) {
        let endpoint = std::env::var("AZURITE_BLOB_STORAGE_URL").ok();
        return Service::new(
            endpoint.as_deref().unwrap_or("http://127.0.0.1:10000"),
            account.or_else(|| Some("devstoreaccount1".to_owned())),
        );
    }
    let endpoint = value(AzureConfigKey::Endpoint).or_else(|| {
        let account = account.as_deref()?;
        Some(format!("https://{account}.blob.core.windows.net"))
    });
    Service::new(endpoint.as_deref().unwrap_or_default(), account)
}

/// A switch as the client reads it.
fn is_on(switch: &str) -> bool {
    let switch = switch.to_ascii_lowercase();
    matches!(switch.as_str(), "1" | "true" | "on" | "yes" | "y")
}

fn retries(config: &StoreConfig) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: INIT_BACKOFF,
            max_backoff: MAX_BACKOFF,
            base: 2.0,
        },
        max_retries: config.max_retries,
        retry_timeout: config.retry_timeout,
    }
}

fn s3(config: &StoreConfig) -> Result<AmazonS3Builder, String> {
    let key = config.secret("access_key_id");
    let secret = config.secret("secret_access_key");
    let mut builder = AmazonS3Builder::new();
    for (name, value) in std::env::vars_os() {
        let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
            continue;
        };
        if !name.starts_with("AWS_") || value.is_empty() {
            continue;
        }
        let Ok(known) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else {
            continue;
        };
        // Half of the credentials from here and half from there would fit only by chance.
        let credentials = matches!(
            known,
            AmazonS3ConfigKey::AccessKeyId
                | AmazonS3ConfigKey::SecretAccessKey
                | AmazonS3ConfigKey::Token
        );
        if !(credentials && (key.is_some() || secret.is_some())) {
            builder = builder.with_config(known, value);
        }
    }
    builder = builder
        .with_bucket_name(config.url().bucket())
        // A request for each object: not every server knows how to delete many at once.
        .with_disable_bulk_delete(true)
        .with_retry(retries(config))
        .with_http_connector(Connector::new(config.timeout)?);
    if let Some(key) = key {
        builder = builder.with_access_key_id(key);
    }
    if let Some(secret) = secret {
        builder = builder.with_secret_access_key(secret);
    }
    if let Some(token) = config.secret("session_token") {
        builder = builder.with_token(token);
    }
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(allow) = config.allow_http {
        builder = builder.with_allow_http(allow);
    }
    let hosted = config.path_style.map(|path_style| !path_style);
    if let Some(hosted) = hosted {
        builder = builder.with_virtual_hosted_style_request(hosted);
    }
    if let Some(endpoint) = &config.endpoint {
        let endpoint = match hosted {
            // The client takes the endpoint of this style as that of the bucket.
            Some(true) => endpoint.replacen("://", &format!("://{}.", config.url().bucket()), 1),
            _ => endpoint.clone(),
        };
        builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
    }
    Ok(builder)
}

fn gcs(config: &StoreConfig) -> Result<GoogleCloudStorageBuilder, String> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(config.url().bucket())
        .with_retry(retries(config))
        .with_http_connector(Connector::new(config.timeout)?);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if let Some(path) = &config.service_account_path {
        builder = builder.with_service_account_path(path);
    }
    if let Some(key) = config.secret("service_account_key") {
        builder = builder.with_service_account_key(key);
    }
    if let Some(allow) = config.allow_http {
        builder = builder
            .with_client_options(object_store::ClientOptions::default().with_allow_http(allow));
    }
    Ok(builder)
}

fn azure(config: &StoreConfig) -> Result<MicrosoftAzureBuilder, String> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(config.url().bucket())
        .with_retry(retries(config))
        .with_http_connector(Connector::new(config.timeout)?);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(account) = &config.account_name {
        builder = builder.with_account(account);
    }
    if let Some(key) = config.secret("access_key") {
        builder = builder.with_access_key(key);
    }
    if let Some(token) = config.secret("sas_token") {
        builder = builder.with_config(AzureConfigKey::SasKey, token);
    }
    if let Some(allow) = config.allow_http {
        builder = builder.with_allow_http(allow);
    }
    Ok(builder)
}
