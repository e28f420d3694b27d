//! The TOML file → texts per key, the form in which the other sources come.

use toml::Value;

use super::{KEYS, nearest, one_line};

/// Every setting of the file as `(index in KEYS, text)`. The error is one line that names the key.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(usize, String)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {}", before.matches('\n').count() + 1, one_line(e.message()))
    })?;
    let mut found = Vec::new();
    walk(&table, "", &mut found)?;
    Ok(found)
}

/// Depth is bounded by the table of keys: only into a table that some key lies in.
fn walk(table: &toml::Table, prefix: &str, found: &mut Vec<(usize, String)>) -> Result<(), String> {
    for (name, value) in table {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        if let Some((at, key)) = KEYS.iter().enumerate().find(|(_, key)| key.file == path) {
            found.push((at, text(value, key.list).map_err(|wrong| format!("{path} ({}) {wrong}", key.name))?));
            continue;
        }
        let inside = format!("{path}.");
        match value {
            Value::Table(table) if KEYS.iter().any(|key| key.file.starts_with(&inside)) => walk(table, &path, found)?,
            _ if KEYS.iter().any(|key| key.file.starts_with(&inside)) => return Err(format!("{path} must be a table")),
            _ => {
                let hint = nearest(&path, KEYS.iter().map(|key| key.file.to_owned()));
                let hint = hint.map_or(String::new(), |n| format!(", did you mean {n}?"));
                return Err(format!("{}: unknown key{hint}", one_line(&path)));
            }
        }
    }
    Ok(())
}

fn text(value: &Value, list: bool) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Boolean(flag) => Ok(flag.to_string()),
        Value::Array(items) if list => {
            let items: Result<Vec<String>, String> = items.iter().map(item).collect();
            Ok(items?.join(","))
        }
        Value::Array(_) => Err("must not be an array".to_owned()),
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => {
            Err("must be a string, a whole number or a boolean".to_owned())
        }
    }
}

/// A member of a list: a string, or `{ urls = "…" }`, the way `iceServers` is written for browsers.
fn item(value: &Value) -> Result<String, String> {
    let wrong = || "must be an array of strings".to_owned();
    match value {
        Value::String(text) if !text.contains(',') => Ok(text.clone()),
        Value::Table(table) if table.len() == 1 => match table.get("urls") {
            Some(Value::Array(urls)) => {
                let urls: Option<Vec<&str>> = urls.iter().map(Value::as_str).collect();
                Ok(urls.ok_or_else(wrong)?.join(","))
            }
            Some(Value::String(url)) => Ok(url.clone()),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}
