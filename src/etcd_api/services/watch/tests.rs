//! What a client asks for, as the hub is asked for it.
use super::*;
