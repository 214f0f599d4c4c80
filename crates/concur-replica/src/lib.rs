//! One replica, composed of network, decision and execution: the data path. No I/O.
