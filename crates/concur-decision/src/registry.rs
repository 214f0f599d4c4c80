//! How the list of protocols becomes enums, names and entries.

use concur_core::Strategy;
use std::fmt;

/// A protocol, chosen by a variant of its family's enum, by its name, or from a crate of one's own.
#[derive(Clone, Copy)]
pub struct DecisionMaking(pub Strategy);

impl fmt::Debug for DecisionMaking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.traits.name)
    }
}

impl PartialEq for DecisionMaking {
    fn eq(&self, other: &Self) -> bool {
        self.0.traits.name == other.0.traits.name
    }
}

impl From<Strategy> for DecisionMaking {
    fn from(strategy: Strategy) -> Self {
        Self(strategy)
    }
}

macro_rules! registry {
    ($($(#[$family_doc:meta])* $family:ident { $($(#[$doc:meta])* $variant:ident => $folder:ident::$protocol:ident),+ $(,)? })+) => {
        $(
            $(#[$family_doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
            pub enum $family {
                $($(#[$doc])* $variant),+
            }

            impl $family {
                /// The registry's entry.
                pub const fn strategy(self) -> concur_core::Strategy {
                    match self {
                        $(Self::$variant => concur_core::Strategy::of::<$folder::$protocol>()),+
                    }
                }
            }

            impl From<$family> for $crate::DecisionMaking {
                fn from(family: $family) -> Self {
                    $crate::DecisionMaking(family.strategy())
                }
            }
        )+

        /// Every protocol, in the order in which they are listed.
        pub fn registry() -> &'static [concur_core::Strategy] {
            const ALL: &[concur_core::Strategy] = &[$($(concur_core::Strategy::of::<$folder::$protocol>()),+),+];
            ALL
        }

        /// The protocol of that name.
        pub fn find(name: &str) -> Option<concur_core::Strategy> {
            registry().iter().copied().find(|strategy| strategy.traits.name == name)
        }

        /// Hands the types of all protocols to a macro, for what takes a type and not an entry: `each_protocol!(examine)` is
        /// `examine! { raft::Raft, … }`, folders of this crate and the types in them.
        #[macro_export]
        macro_rules! each_protocol {
            ($to:ident) => {
                $to! { $($($folder::$protocol),+),+ }
            };
        }
    };
}
pub(crate) use registry;
