//! The dependency descriptor: which frames a frame needs, in a header extension that end-to-end encryption leaves clear.

use std::sync::Arc;

/// The raw header extension, as it travels in `ExtensionValues::user_values`, both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DependencyDescriptor(pub Arc<[u8]>);
