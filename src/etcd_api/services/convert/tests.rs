//! Messages in, requests out, and the checks on the way.

use super::*;
