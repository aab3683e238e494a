//! felix-lb
