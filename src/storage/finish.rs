//! What is made of a recording after its end.
