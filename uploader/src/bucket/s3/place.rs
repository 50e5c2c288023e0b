//! The URL of a bucket and the scope of its signatures, by the SDK's addressing rules.

use aws_sdk_s3::config::endpoint::{DefaultResolver, Endpoint, Params, ResolveEndpoint};
use aws_smithy_types::Document;

use crate::base::error::{Area, Error, Result, chain};
use crate::bucket::address::S3Address;

/// Where requests go and how they are signed.
#[derive(Debug)]
pub(super) struct Place {
    /// The URL of the bucket, without a slash at its end.
    pub(super) url: String,
    /// The region that signatures name.
    pub(super) region: String,
    /// The service that signatures name.
    pub(super) service: String,
}

/// The place of the bucket at `address`. Sends nothing. Fails if the rules have no place for the address.
pub(super) async fn of(address: &S3Address, region: &str) -> Result<Place> {
    let fault = |cause: String| {
        Error::permanent(Area::Config, format!("cannot use the address `{address}`")).because(cause)
    };
    // The rules put no slash between the path of an endpoint and the name of the bucket.
    let endpoint = address.endpoint.as_ref().map(|endpoint| format!("{endpoint}/"));
    let params = Params::builder()
        .bucket(&address.bucket)
        .region(region)
        .set_endpoint(endpoint)
        .force_path_style(address.path_style())
        .disable_s3_express_session_auth(true)
        .build()
        .map_err(|error| fault(chain(&error)))?;
    let endpoint =
        DefaultResolver::new().resolve_endpoint(&params).await.map_err(|error| fault(error.to_string()))?;
    let of_scheme = |name, default: &str| of_scheme(&endpoint, name).unwrap_or(default).to_owned();
    Ok(Place {
        url: endpoint.url().trim_end_matches('/').to_owned(),
        region: of_scheme("signingRegion", region),
        service: of_scheme("signingName", "s3"),
    })
}

/// A property of the first authentication scheme that the rules name.
fn of_scheme<'a>(endpoint: &'a Endpoint, name: &str) -> Option<&'a str> {
    let schemes = endpoint.properties().get("authSchemes")?;
    let Document::Array(schemes) = schemes else { return None };
    schemes.first()?.as_object()?.get(name)?.as_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::address::Address;

    #[tokio::test]
    async fn requests_go_to_the_place_that_the_address_names() {
        for (address, url) in [
            ("s3://cache?region=eu-west-1", "https://cache.s3.eu-west-1.amazonaws.com"),
            ("s3://cache/prefix?region=cn-north-1", "https://cache.s3.cn-north-1.amazonaws.com.cn"),
            ("s3://ca.che?region=us-east-1", "https://s3.us-east-1.amazonaws.com/ca.che"),
            ("s3://cache?region=us-east-1&addressing-style=path", "https://s3.us-east-1.amazonaws.com/cache"),
            ("s3://cache?endpoint=s3.example.org", "https://s3.example.org/cache"),
            ("s3://cache?endpoint=https://example.org:8443/s3", "https://example.org:8443/s3/cache"),
            ("s3://cache?endpoint=s3.example.org&addressing-style=virtual", "https://cache.s3.example.org"),
            ("s3://cache?endpoint=[::1]:9000&scheme=http", "http://[::1]:9000/cache"),
            (
                "s3://cache?endpoint=127.0.0.1:9000&scheme=http&addressing-style=virtual",
                "http://127.0.0.1:9000/cache",
            ),
        ] {
            let Address::S3(address) = address.parse().expect(address) else { panic!("{address}") };
            let region = address.region.clone().unwrap_or("us-east-1".into());
            let place = of(&address, &region).await.expect("place");
            assert_eq!(place.url, url, "{address}");
            assert_eq!((place.region, place.service), (region, "s3".into()), "{address}");
        }
    }
}
