//! The page: the files of `web/`, embedded at build time, as answers to HTTP requests.
//!
//! `/`, `/new` and `/rooms/NAME` are one document; which view it shows is the script's matter.
//! Everything else lies under `/assets/VERSION/…`, where VERSION is a hash of all files: such an
//! answer may be kept for ever, and files of two versions never meet in one page.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use rust_embed::RustEmbed;

/// What the page may load and where it may connect. Nothing comes from elsewhere; sessions go to
/// whichever relay is named, over TLS.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; \
    style-src 'self'; img-src 'self'; connect-src 'self' https:; worker-src 'self'; \
    manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The path of a room's page on the origin, its name escaped. A token goes behind it as
/// `#token=TOKEN`: a fragment never leaves the browser.
#[must_use]
pub fn room_path(room: &str) -> String {
    let mut path = String::from("/rooms/");
    for &byte in room.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

/// The answer to a GET or HEAD of `path` (without query): a file of the page, `304` for a copy that
/// the client has, or `404`. `headers` are the request's: `If-None-Match` and `Accept-Encoding` count.
#[must_use]
pub fn response(path: &str, headers: &HeaderMap) -> Response<Body> {
    match find(path) {
        Some((file, kept)) => answer(file, kept, headers),
        None => {
            let text = Body::from("There is no such page.\n");
            let mut response = Response::new(text);
            *response.status_mut() = StatusCode::NOT_FOUND;
            let fields = response.headers_mut();
            fields.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            secure(fields);
            response
        }
    }
}

#[derive(RustEmbed)]
#[folder = "../web"]
struct Embedded;

struct File {
    kind: &'static str,
    plain: Bytes,
    /// Only where it is shorter.
    gzip: Option<Bytes>,
    etag: HeaderValue,
}

struct Files {
    version: String,
    files: BTreeMap<String, File>,
}

/// All files in the form that they are sent in: some 200 kB, made once.
static FILES: LazyLock<Files> = LazyLock::new(Files::load);

const DOCUMENT: &str = "index.html";
/// What lies in `web/` for tools alone: it tells node that the files are modules.
const NOT_SERVED: [&str; 1] = ["package.json"];
const ASSETS: &str = "/assets/";
/// Bytes of the hash of all files that make up the version.
const VERSION_BYTES: usize = 8;

impl Files {
    fn load() -> Self {
        let names: Vec<_> = Embedded::iter().collect();
        let found = names.iter().filter_map(|name| Some((name, Embedded::get(name)?)));
        let embedded: BTreeMap<_, _> = found.collect();
        let mut all = ring::digest::Context::new(&ring::digest::SHA256);
        for (name, file) in &embedded {
            all.update(name.as_bytes());
            all.update(&file.metadata.sha256_hash());
        }
        let version = hex(&all.finish().as_ref()[..VERSION_BYTES]);
        let mut files = BTreeMap::new();
        for (name, file) in embedded {
            if NOT_SERVED.contains(&name.as_ref()) {
                continue;
            }
            let mut plain = file.data.into_owned();
            if name.as_ref() == DOCUMENT {
                let text = String::from_utf8_lossy(&plain);
                let versioned = format!("\"{ASSETS}{version}/");
                plain = text.replace(&format!("\"{ASSETS}"), &versioned).into_bytes();
            }
            files.insert(name.to_string(), File::new(name, plain));
        }
        Self { version, files }
    }
}

impl File {
    fn new(name: &str, plain: Vec<u8>) -> Self {
        let hash = ring::digest::digest(&ring::digest::SHA256, &plain);
        let etag = format!("\"{}\"", hex(&hash.as_ref()[..VERSION_BYTES]));
        let etag = HeaderValue::try_from(etag).expect("hexadecimal digits in quotes are a header");
        let gzip = compress(&plain).filter(|short| short.len() < plain.len());
        Self { kind: kind(name), plain: plain.into(), gzip, etag }
    }
}

/// The file that a path names, and whether its answer may be kept for ever.
fn find(path: &str) -> Option<(&'static File, bool)> {
    let Files { version, files } = &*FILES;
    let room = path.strip_prefix("/rooms/");
    if path == "/" || path == "/new" || room.is_some_and(|name| !name.contains('/')) {
        return Some((files.get(DOCUMENT)?, false));
    }
    let name = path.strip_prefix(ASSETS)?;
    let hash =
        |part: &str| part.len() == 2 * VERSION_BYTES && part.bytes().all(|b| b.is_ascii_hexdigit());
    // Who has the document of another version gets the files that there are.
    match name.split_once('/') {
        Some((part, rest)) if hash(part) => Some((files.get(rest)?, part == version)),
        _ => Some((files.get(name)?, false)),
    }
}

fn answer(file: &File, kept: bool, request: &HeaderMap) -> Response<Body> {
    let gzip = file.gzip.as_ref().filter(|_| accepts_gzip(request));
    let known = request.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let etag = file.etag.to_str().unwrap_or_default();
    let known = known.is_some_and(|tags| tags.split(',').any(|tag| same(tag, etag)));
    let mut response = Response::new(Body::empty());
    let fields = response.headers_mut();
    let cache = if kept { "public, max-age=31536000, immutable" } else { "no-cache" };
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    fields.insert(header::ETAG, file.etag.clone());
    fields.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    secure(fields);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.kind));
    if gzip.is_some() {
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    *response.body_mut() = Body::from(gzip.unwrap_or(&file.plain).clone());
    response
}

/// What every answer says besides: no guessing of types, no framing, no address handed on, and the
/// microphone for this page alone.
fn secure(fields: &mut HeaderMap) {
    let mut set = |name: &'static str, value| {
        fields.insert(name, HeaderValue::from_static(value));
    };
    set("content-security-policy", CONTENT_SECURITY_POLICY);
    set("x-content-type-options", "nosniff");
    set("referrer-policy", "no-referrer");
    set("cross-origin-opener-policy", "same-origin");
    set("permissions-policy", "microphone=(self), camera=(), geolocation=()");
}

/// Whether the client takes gzip (RFC 9110 section 12.5.3).
fn accepts_gzip(request: &HeaderMap) -> bool {
    let value = request.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    value.is_some_and(|codings| {
        codings.split(',').any(|coding| {
            let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = weight.trim().strip_prefix("q=").map(str::parse::<f32>);
            name.trim().eq_ignore_ascii_case("gzip") && weight != Some(Ok(0.0))
        })
    })
}

/// A tag that a proxy made weak still names the same file.
fn same(tag: &str, etag: &str) -> bool {
    let tag = tag.trim();
    tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
}

fn kind(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webmanifest" => "application/manifest+json",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}

fn compress(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn get(path: &str, fields: &[(header::HeaderName, &str)]) -> (StatusCode, HeaderMap, Vec<u8>) {
        let headers = fields.iter().map(|(n, v)| (n.clone(), HeaderValue::from_str(v).unwrap()));
        let (parts, body) = response(path, &headers.collect()).into_parts();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(axum::body::to_bytes(body, usize::MAX)).unwrap();
        (parts.status, parts.headers, body.to_vec())
    }

    #[test]
    fn rooms_and_the_lobby_are_one_document_that_names_versioned_files() {
        let (status, headers, body) = get("/", &[]);
        assert_eq!(
            (status, &headers["content-type"]),
            (StatusCode::OK, &HeaderValue::from_static("text/html; charset=utf-8"))
        );
        assert_eq!(headers["cache-control"], "no-cache");
        assert_eq!(headers["content-security-policy"], CONTENT_SECURITY_POLICY);
        for path in ["/new", "/rooms/town-hall", "/rooms/caf%C3%A9"] {
            assert_eq!(get(path, &[]).2, body);
        }
        let text = String::from_utf8(body).unwrap();
        let script = text.split('"').find(|part| part.ends_with("main.js")).unwrap();
        let (status, headers, _) = get(script, &[]);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(headers["content-type"], "text/javascript; charset=utf-8");
    }

    #[test]
    fn files_of_another_version_are_not_kept() {
        let (status, headers, _) = get("/assets/0123456789abcdef/page/main.js", &[]);
        assert_eq!(
            (status, &headers["cache-control"]),
            (StatusCode::OK, &HeaderValue::from_static("no-cache"))
        );
    }

    #[test]
    fn a_copy_that_the_client_has_is_not_sent_again() {
        let (_, headers, _) = get("/", &[]);
        let etag = headers["etag"].to_str().unwrap().to_owned();
        for tag in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}")] {
            let (status, _, body) = get("/", &[(header::IF_NONE_MATCH, &tag)]);
            assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));
        }
        assert_eq!(get("/", &[(header::IF_NONE_MATCH, "\"other\"")]).0, StatusCode::OK);
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let plain = get("/", &[]);
        assert!(!plain.1.contains_key("content-encoding"));
        let refused = get("/", &[(header::ACCEPT_ENCODING, "br, gzip;q=0")]);
        assert!(!refused.1.contains_key("content-encoding"));
        let (_, headers, body) = get("/", &[(header::ACCEPT_ENCODING, "br, gzip;q=0.5")]);
        assert_eq!(headers["content-encoding"], "gzip");
        let mut text = Vec::new();
        GzDecoder::new(body.as_slice()).read_to_end(&mut text).unwrap();
        assert_eq!(text, plain.2);
    }

    #[test]
    fn nothing_else_is_found() {
        for path in [
            "",
            "/x",
            "/assets/",
            "/assets/../relay/Cargo.toml",
            "/assets/package.json",
            "/rooms/a/b",
            "/index.html",
        ] {
            assert_eq!(get(path, &[]).0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[test]
    fn names_of_rooms_are_escaped() {
        assert_eq!(room_path("town-hall"), "/rooms/town-hall");
        assert_eq!(room_path("a/b? ü"), "/rooms/a%2Fb%3F%20%C3%BC");
    }
}
