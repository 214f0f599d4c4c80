//! Viewstamped Replication sits the examination.

use concur_example_viewstamped::Viewstamped;

concur_sim::check_strategy!(Viewstamped);
