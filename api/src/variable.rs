//! What may be the name and the value of an environment variable.

/// Why a variable cannot be set. No message holds its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// Its name is none.
    #[error("{0:?} is no name of an environment variable: letters, digits and _ only, not beginning with a digit")]
    Name(String),
    /// It is the platform's own.
    #[error("PORT is set by the platform: listen on the port it names")]
    Port,
    /// The kernel cannot pass it.
    #[error("the value of {0} contains a zero byte")]
    ZeroByte(String),
    /// The kernel does not pass it.
    #[error("the value of {name} has {size} bytes; the limit is {limit}")]
    TooLong {
        /// Its name.
        name: String,
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
}

/// The most bytes of a value: the kernel passes 128 KiB with the name and the sign between.
pub const MAX_VALUE: usize = 120 << 10;

/// Checks a name and a value.
///
/// # Errors
/// Which rule is broken.
pub fn check(name: &str, value: &str) -> Result<(), VariableError> {
    check_name(name)?;
    if value.contains('\0') {
        return Err(VariableError::ZeroByte(name.to_owned()));
    }
    if value.len() > MAX_VALUE {
        return Err(VariableError::TooLong { name: name.to_owned(), size: value.len(), limit: MAX_VALUE });
    }
    Ok(())
}

/// Checks a name.
///
/// # Errors
/// Which rule is broken.
pub fn check_name(name: &str) -> Result<(), VariableError> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    if !begins || !name.bytes().all(is_part) || name.len() > 255 {
        return Err(VariableError::Name(name.chars().take(80).collect()));
    }
    if name == "PORT" { Err(VariableError::Port) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_what_the_kernel_and_a_shell_take() {
        assert_eq!(check("DATABASE_URL", "a=b\nc"), Ok(()));
        for name in ["", "1A", "A-B", "A B", "Ä", &"A".repeat(256)] {
            assert!(matches!(check(name, ""), Err(VariableError::Name(_))), "{name}");
        }
        assert_eq!(check("PORT", "80"), Err(VariableError::Port));
        let error = check("A", "secret\0").expect_err("a zero byte").to_string();
        assert!(!error.contains("secret"), "{error}");
        assert!(matches!(check("A", &"x".repeat(MAX_VALUE + 1)), Err(VariableError::TooLong { .. })));
    }
}
