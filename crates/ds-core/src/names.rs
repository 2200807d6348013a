//! Enumerations whose values have names.

/// An enumeration with a name for each value, as configs, files and messages have them.
#[doc(hidden)]
#[macro_export]
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }
        impl $name {
            /// All names.
            pub const NAMES: &'static [&'static str] = &[$($text),+];
            /// The name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
        impl std::str::FromStr for $name {
            type Err = $crate::Error;
            fn from_str(name: &str) -> $crate::Result<Self> {
                match name {
                    $($text => Ok(Self::$variant),)+
                    other => Err($crate::Error::Name { given: other.to_owned(), allowed: Self::NAMES.join(", ") }),
                }
            }
        }
    };
}

/// Serialisation by name.
#[doc(hidden)]
#[macro_export]
macro_rules! serde_by_name {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <String as serde::Deserialize>::deserialize(deserializer)?;
                name.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

#[cfg(feature = "serde")]
crate::serde_by_name!(
    crate::activation::ActivationKind,
    crate::activation::Init,
    crate::regularization::Norm,
    crate::sparsify::Cost
);
