//! The little XML that S3 and those who speak like it answer with: names of elements and their texts.

use std::fmt::Write;

/// Name of the outermost element, without its prefix. `None`: not XML.
pub fn root(xml: &str) -> Option<&str> {
    elements(xml).next().map(|(name, _)| name)
}

/// Text of the first element of that name, wherever it is; empty when it holds others.
pub fn text(xml: &str, name: &str) -> Option<String> {
    let (_, after) = elements(xml).find(|(found, _)| *found == name)?;
    Some(unescaped(after.split('<').next().unwrap_or_default().trim()))
}

/// Every element as its name and what follows its tag.
fn elements(xml: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = xml;
    std::iter::from_fn(move || {
        loop {
            let (_, inside) = rest.split_once('<')?;
            let (tag, after) = inside.split_once('>')?;
            rest = after;
            if tag.starts_with(['?', '!', '/']) {
                continue;
            }
            let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
            let name = name.rsplit(':').next().unwrap_or_default();
            // What follows an empty element is not its text.
            return Some((name, if tag.ends_with('/') { "" } else { after }));
        }
    })
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let known = after.split_once(';').and_then(|(name, after)| Some((entity(name)?, after)));
        match known {
            Some((character, after)) => {
                plain.push(character);
                rest = after;
            }
            None => {
                plain.push('&');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

/// What completes an upload: numbers and tags of its parts, ascending.
pub fn completion<'a>(parts: impl Iterator<Item = (u32, &'a str)>) -> String {
    let mut xml = String::from("<CompleteMultipartUpload>");
    for (number, etag) in parts {
        let _ = write!(xml, "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", escaped(etag));
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stores_say() {
        let error = "<?xml version=\"1.0\"?>\n<!-- <Code>No</Code -->\n<Error xmlns='x'><Code>NoSuchKey</Code>\
                     <Message>a &lt;b&gt; &amp; &#x41;&#66; &nope; &</Message><Empty/><Resource>/r</Resource></Error>";
        assert_eq!(text(error, "Code").as_deref(), Some("NoSuchKey"));
        assert_eq!(text(error, "Message").as_deref(), Some("a <b> & AB &nope; &"));
        assert_eq!(text(error, "Empty").as_deref(), Some(""));
        assert_eq!(text(error, "Region"), None);
        assert_eq!(root("  \n \n<?xml?><s3:Error>"), Some("Error"));
        for broken in ["", "{}", "<", "<a", "</a>", "&", "<?xml?>"] {
            assert_eq!((root(broken), text(broken, "a")), (None, None), "{broken}");
        }
        assert_eq!(text("<a>1", "a").as_deref(), Some("1"));
    }

    #[test]
    fn a_completion_is_read_back() {
        let xml = completion([(1, "\"a&b\""), (2, "c")].into_iter());
        assert_eq!(
            xml,
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;a&amp;b&quot;</ETag></Part>\
             <Part><PartNumber>2</PartNumber><ETag>c</ETag></Part></CompleteMultipartUpload>"
        );
        assert_eq!(text(&xml, "ETag").as_deref(), Some("\"a&b\""));
    }
}
