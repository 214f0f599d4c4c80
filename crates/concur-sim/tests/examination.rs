//! Every protocol of the registry sits the examination that anybody's protocol sits.

macro_rules! examine {
    ($($folder:ident::$protocol:ident),+) => {
        $(mod $folder {
            concur_sim::check_strategy!(concur_decision::$folder::$protocol);
        })+
    };
}

concur_decision::each_protocol!(examine);
