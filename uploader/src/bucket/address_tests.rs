use super::*;

fn s3_of(text: &str) -> S3Address {
    match text.parse() {
        Ok(Address::S3(address)) => address,
        other => panic!("{text}: {other:?}"),
    }
}

fn error_of(text: &str) -> String {
    let error = text.parse::<Address>().expect_err(text);
    assert_eq!(error.area(), Area::Config);
    format!("{error} / {}", error.hint_text().unwrap_or_default())
}

#[test]
fn as_nix_writes_them() {
    let plain = s3_of("s3://cache");
    assert_eq!((plain.bucket.as_str(), plain.prefix.as_str()), ("cache", ""));
    assert!(!plain.path_style());

    let local = s3_of("s3://cache?endpoint=127.0.0.1:9000&scheme=http&region=garage&profile=builder");
    assert_eq!(local.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
    assert_eq!(local.region.as_deref(), Some("garage"));
    assert_eq!(local.profile.as_deref(), Some("builder"));
    assert!(local.path_style());

    assert_eq!(s3_of("s3://c?endpoint=s3.example.org").endpoint.as_deref(), Some("https://s3.example.org"));
    assert_eq!(s3_of("s3://c?endpoint=http://[::1]:9000/").endpoint.as_deref(), Some("http://[::1]:9000"));
    assert_eq!(s3_of("s3://c?endpoint=http%3A%2F%2Fh%3A1").endpoint.as_deref(), Some("http://h:1"));
    assert!(!s3_of("s3://c?endpoint=h&addressing-style=virtual").path_style());
    assert!(s3_of("s3://c?imds=true").imds);
    assert_eq!(s3_of("s3://c?region=&endpoint=").endpoint, None);
}

#[test]
fn prefixes_are_decoded() {
    assert_eq!(s3_of("s3://c/a/b").prefix, "a/b");
    assert_eq!(s3_of("s3://c/a/").prefix, "a");
    assert_eq!(s3_of("s3://c/").prefix, "");
    assert_eq!(s3_of("s3://c/a%20b+c%26d%25/%C3%A9%3F").prefix, "a b+c&d%/é?");
    assert_eq!(s3_of("s3://c/a/b").full_key("nar/x"), "a/b/nar/x");
    assert_eq!(s3_of("s3://c").full_key("nar/x"), "nar/x");
}

#[test]
fn what_is_refused_says_why() {
    for (text, part) in [
        ("cache", "no scheme"),
        ("s3://", "no name of a bucket"),
        ("s3://host:9000/c", "endpoint="),
        ("s3://c//a", "empty segment"),
        ("s3://c/a/../b", "`..`"),
        ("s3://c/%2e%2e/b", "`..`"),
        ("s3://c/a%zz", "hexadecimal"),
        ("s3://c?scheme=ftp&endpoint=h", "`http` or `https`"),
        ("s3://c?scheme=http", "needs an `endpoint`"),
        ("s3://c?scheme=http&endpoint=https://h", "contradicts"),
        ("s3://c?endpoint=h&endpoint=h", "twice"),
        ("s3://c?compression=zstd", "sets the compression"),
        ("s3://c?secret-key=/k", "signing keys"),
        ("s3://c?want-mass-query=true", "nix-cache-info"),
        ("s3://c?multipart-upload=true", "larder chooses the size"),
        ("s3://c?endpont=h", "did you mean `endpoint`"),
        ("s3://c?use-path-style=true", "larder accepts"),
        ("https://h/c", "plain HTTP"),
        ("file://dir", "absolute path"),
        ("file:///d?compression=zstd", "sets the compression"),
        ("/d/../e", "`..`"),
        ("ssh://host", "unknown"),
    ] {
        let message = error_of(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn no_message_shows_a_secret() {
    for text in [
        "s3://id:hunter2@c",
        "s3://c?endpoint=http://id:hunter2@h",
        "s3://c?passwd=hunter2",
        "x://u:hunter2@h",
    ] {
        let message = error_of(text);
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn directories() {
    for (text, path, shown) in [
        ("/var/cache", "/var/cache", "file:///var/cache"),
        ("file:///var/cache/", "/var/cache", "file:///var/cache"),
        ("file:///a%20b", "/a b", "file:///a%20b"),
        ("/a%20b", "/a%20b", "file:///a%2520b"),
        ("/", "/", "file:///"),
    ] {
        let address: Address = text.parse().expect(text);
        assert_eq!(address, Address::Directory(PathBuf::from(path)));
        assert_eq!(address.to_string(), shown);
        assert_eq!(shown.parse::<Address>().expect(shown), address);
    }
}

#[test]
fn where_readers_look() {
    for (text, url) in [
        ("s3://c", "https://c.s3.eu-west-1.amazonaws.com"),
        ("s3://c.org/a b", "https://s3.eu-west-1.amazonaws.com/c.org/a%20b"),
        ("s3://c/p?endpoint=h:1&scheme=http", "http://h:1/c/p"),
        ("s3://c/p?endpoint=h&addressing-style=virtual", "https://c.h/p"),
        ("s3://c?endpoint=https://h/base", "https://h/base/c"),
    ] {
        assert_eq!(s3_of(text).public_url("eu-west-1"), url);
    }
}

/// Every combination of odd parts is written such that it is read back the same.
#[test]
fn display_is_read_back() {
    let prefixes = ["", "a", "a b/c", "+&=?#%/é", "100%25", "日本/~", "a:b@c"];
    let endpoints = [None, Some("http://127.0.0.1:9000"), Some("https://h"), Some("https://[::1]:1/x")];
    let profiles = [None, Some("a b"), Some("p&q=r"), Some("100%")];
    for prefix in prefixes {
        for endpoint in endpoints {
            for profile in profiles {
                for style in [AddressingStyle::Auto, AddressingStyle::Path, AddressingStyle::Virtual] {
                    let address = S3Address {
                        bucket: "my-cache.example".into(),
                        prefix: prefix.into(),
                        endpoint: endpoint.map(Into::into),
                        region: profile.map(|_| "eu-west-1".into()),
                        profile: profile.map(Into::into),
                        style,
                        imds: profile.is_none(),
                    };
                    let shown = address.to_string();
                    assert_eq!(s3_of(&shown), address, "{shown}");
                }
            }
        }
    }
}

/// Pieces thrown together in a fixed pseudo-random order: no panic, and what is accepted is read back the same.
#[test]
fn arbitrary_text_is_refused_or_read_back() {
    let pieces = [
        "s3://", "file://", "/", "?", "&", "=", "%", "%2f", "%00", "é", "..", ".", "a", "endpoint", "@", "#",
        ":9",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..(state % 9) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            text.push_str(pieces[usize::try_from(state % pieces.len() as u64).expect("small")]);
        }
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if let Ok(address) = text.parse::<Address>() {
            let shown = address.to_string();
            assert_eq!(shown.parse::<Address>().expect(&shown), address, "{text} → {shown}");
        }
    }
}

#[test]
fn another_prefix_is_in_the_same_bucket() {
    for (address, other) in [
        ("s3://c/main?endpoint=localhost:9&scheme=http", "s3://c/pr/1?endpoint=localhost:9&scheme=http"),
        ("s3://c?region=eu-west-1", "s3://c/pr/1?region=eu-west-1"),
        ("file:///srv/cache", "file:///srv/cache/pr/1"),
    ] {
        let address: Address = address.parse().expect(address);
        assert_eq!(address.with_prefix("pr/1/").expect("prefix").to_string(), other);
        for wrong in ["", "/", "/pr", "pr//", "../pr"] {
            assert!(address.with_prefix(wrong).is_err(), "{wrong}");
        }
    }
}
