//! One source for loops that the compiler turns into vectors, compiled for what machines have: AVX-512, AVX2 + FMA, or the
//! baseline. The choice is made at run time, so one binary is fast everywhere and right everywhere.

use std::sync::OnceLock;

/// Which vector instructions to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// Those that every machine of the target has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 (F, DQ, BW, VL).
    Avx512,
}

/// The environment variable that keeps kernels from wider instructions: `portable`, `avx2` or `avx512`.
pub const VARIABLE: &str = "DS_INSTRUCTIONS";

/// What [`VARIABLE`] asks for; `None` if it is not set.
///
/// # Errors
/// If it is none of the known sets: a line that says so.
pub fn requested() -> Result<Option<Instructions>, String> {
    let Some(value) = std::env::var_os(VARIABLE) else { return Ok(None) };
    match value.to_str() {
        Some("portable") => Ok(Some(Instructions::Portable)),
        Some("avx2") => Ok(Some(Instructions::Avx2)),
        Some("avx512") => Ok(Some(Instructions::Avx512)),
        _ => Err(format!("{VARIABLE} is {value:?}; it can be \"portable\", \"avx2\", \"avx512\", or not set")),
    }
}

/// The widest that this machine has and [`VARIABLE`] allows, if it is set to one of its values.
#[inline]
pub fn instructions() -> Instructions {
    static CHOSEN: OnceLock<Instructions> = OnceLock::new();
    *CHOSEN.get_or_init(|| match requested() {
        Ok(Some(limit)) => limit.min(widest()),
        _ => widest(),
    })
}

fn widest() -> Instructions {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl");
            return if wide { Instructions::Avx512 } else { Instructions::Avx2 };
        }
    }
    Instructions::Portable
}

/// All that this machine has, the widest last: what a test of every path goes through.
pub fn available() -> Vec<Instructions> {
    let all = [Instructions::Portable, Instructions::Avx2, Instructions::Avx512];
    all.into_iter().filter(|&one| one <= widest()).collect()
}

/// Defines a generic function that is compiled for each set of [`Instructions`] and dispatched at run time.
#[doc(hidden)]
#[macro_export]
macro_rules! vectorized {
    ($(#[$meta:meta])* $visibility:vis fn $name:ident<$T:ident>($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $visibility fn $name<$T: $crate::backend::real::Real>($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn plain<$T: $crate::backend::real::Real>($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
                fn avx512<$T: $crate::backend::real::Real>($($argument: $type),*) $(-> $result)? {
                    plain($($argument),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$T: $crate::backend::real::Real>($($argument: $type),*) $(-> $result)? {
                    plain($($argument),*)
                }
                match $crate::backend::simd::instructions() {
                    // SAFETY: the machine has the instructions.
                    $crate::backend::simd::Instructions::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    $crate::backend::simd::Instructions::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::backend::simd::Instructions::Portable => {}
                }
            }
            plain($($argument),*)
        }
    };
}
