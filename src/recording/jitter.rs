//! Puts packets back into order.
