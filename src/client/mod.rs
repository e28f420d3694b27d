//! The built-in page and the browser SDK, embedded at build.
//!
//! Bytes and their headers only; [`crate::http`] serves them. The page is plain files without a build step: what is in
//! this directory is what the browser gets.

use std::sync::LazyLock;

/// The `Content-Security-Policy` to send with every asset: everything comes from this server, nothing is inline.
///
/// `connect-src 'self'` covers the WebSocket of the same origin.
pub const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                       media-src 'self' blob: mediastream:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                       frame-ancestors 'self'";

/// One file of the page.
#[derive(Debug)]
pub struct Asset {
    /// The path it is served at, from `/`.
    pub path: &'static str,
    /// Value of `Content-Type`.
    pub content_type: &'static str,
    pub body: &'static [u8],
    /// A strong entity tag with its quotes, a function of the body alone.
    pub etag: String,
}

/// The file at a request path (without query), `None` when there is none.
pub fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

/// The paths of all files.
pub fn paths() -> impl Iterator<Item = &'static str> {
    ASSETS.iter().map(|asset| asset.path)
}

static ASSETS: LazyLock<[Asset; 6]> = LazyLock::new(|| {
    [
        embed("/", "text/html; charset=utf-8", include_bytes!("index.html")),
        embed("/app.js", "text/javascript; charset=utf-8", include_bytes!("app.js")),
        embed("/style.css", "text/css; charset=utf-8", include_bytes!("style.css")),
        embed("/client.js", "text/javascript; charset=utf-8", include_bytes!("client.js")),
        embed("/client.d.ts", "application/typescript; charset=utf-8", include_bytes!("client.d.ts")),
        embed("/favicon.svg", "image/svg+xml", include_bytes!("favicon.svg")),
    ]
});

fn embed(path: &'static str, content_type: &'static str, body: &'static [u8]) -> Asset {
    Asset { path, content_type, body, etag: format!("\"{:016x}\"", fnv1a(body)) }
}

/// FNV-1a, 64 bits: stable between builds and platforms, which is all an entity tag of our own files needs.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str) -> &'static str {
        std::str::from_utf8(asset(path).expect("is embedded").body).expect("is UTF-8")
    }

    #[test]
    fn serves_known_paths_only() {
        for (path, content_type) in [
            ("/", "text/html; charset=utf-8"),
            ("/app.js", "text/javascript; charset=utf-8"),
            ("/style.css", "text/css; charset=utf-8"),
            ("/client.js", "text/javascript; charset=utf-8"),
            ("/client.d.ts", "application/typescript; charset=utf-8"),
            ("/favicon.svg", "image/svg+xml"),
        ] {
            let asset = asset(path).expect(path);
            assert_eq!(asset.content_type, content_type, "{path}");
            assert!(!asset.body.is_empty(), "{path}");
        }
        for path in ["", "/index.html", "//", "/../Cargo.toml", "/client.js/", "/CLIENT.JS"] {
            assert!(asset(path).is_none(), "{path}");
        }
    }

    #[test]
    fn entity_tags_differ_and_follow_the_body() {
        // The published test vector of FNV-1a.
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
        let mut tags: Vec<_> = ASSETS.iter().map(|asset| &asset.etag).collect();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), ASSETS.len());
        assert!(tags.iter().all(|tag| tag.len() == 18 && tag.starts_with('"') && tag.ends_with('"')));
    }

    /// What the policy forbids would break the page in the browser, silently for whoever only reads the code.
    #[test]
    fn the_page_keeps_to_its_policy() {
        let page = text("/");
        for forbidden in ["<style", " style=", " onclick=", " onload=", "javascript:", "http://", "https://"] {
            assert!(!page.contains(forbidden), "{forbidden} in index.html");
        }
        for script in page.split("<script").skip(1) {
            assert!(script.contains("src=\"/"), "an inline script in index.html");
        }
        for reference in page.split("src=\"").skip(1).chain(page.split("href=\"").skip(1)) {
            let path = reference.split('"').next().unwrap_or_default();
            assert!(path.starts_with('#') || asset(path).is_some(), "{path} is named in index.html and not embedded");
        }
        for path in ["/app.js", "/client.js"] {
            for forbidden in ["eval(", "new Function(", "innerHTML", "import(\"http"] {
                assert!(!text(path).contains(forbidden), "{forbidden} in {path}");
            }
        }
        assert!(!text("/style.css").contains("url("));
    }

    /// Every element that the script asks for by id is in the page.
    #[test]
    fn the_script_finds_its_elements() {
        let page = text("/");
        for rest in text("/app.js").split("$(\"").skip(1) {
            let id = rest.split('"').next().unwrap_or_default();
            assert!(page.contains(&format!("id=\"{id}\"")), "#{id} is not in index.html");
        }
    }

    #[test]
    fn the_sdk_names_the_version_of_the_server() {
        assert!(text("/client.js").contains(&format!("VERSION = \"{}\"", env!("CARGO_PKG_VERSION"))));
    }

    /// The types name every event the SDK emits and every public method.
    #[test]
    fn the_types_match_the_sdk() {
        let (code, types) = (text("/client.js"), text("/client.d.ts"));
        for rest in code.split("#emit(\"").skip(1) {
            let event = rest.split('"').next().unwrap_or_default();
            assert!(
                types.contains(&format!("\"{event}\":")) || types.contains(&format!("  {event}:")),
                "event {event} is not in client.d.ts"
            );
        }
        let exported = code.split("\nexport class ").skip(1).filter_map(|class| class.split("\n}\n").next());
        for line in exported.flat_map(str::lines).filter(|line| line.ends_with(") {")) {
            // Members stand two spaces in; private ones begin with `#`.
            let Some(member) = line.strip_prefix("  ").filter(|member| !member.starts_with([' ', '#'])) else {
                continue;
            };
            let member = ["static ", "async "].iter().fold(member, |member, word| member.trim_start_matches(word));
            let name = member.split('(').next().unwrap_or_default();
            let declared = match name.strip_prefix("get ") {
                Some(property) => format!("readonly {property}:"),
                None => format!("{name}("),
            };
            let is_private = name.trim_start_matches("get ").starts_with('#');
            let private_or_statement = is_private || name.ends_with(' ') || name.starts_with("} ");
            assert!(private_or_statement || types.contains(&declared), "{member} is not in client.d.ts");
        }
    }
}
