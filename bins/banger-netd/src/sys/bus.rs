//! The system bus (D-Bus), by way of busctl(1), whose output is JSON.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use banger_contract::{Coded, ErrorCode};
use banger_host::process::exec::{Exec, ExecError};

/// Where the bus listens (D-Bus specification, "Well-known message bus instances").
const SOCKET: &str = "/run/dbus/system_bus_socket";

/// How long a service may take, seconds, and busctl itself.
const TIMEOUT: &str = "--timeout=10";
const DEADLINE: Duration = Duration::from_secs(15);

/// A service that could not be asked.
#[derive(Debug, Error)]
#[error("cannot ask {service} for {member} over the system bus")]
pub struct BusError {
    service: &'static str,
    member: String,
    #[source]
    source: BusFailure,
}

#[derive(Debug, Error)]
enum BusFailure {
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("busctl printed no JSON")]
    Json(#[from] serde_json::Error),
    #[error("the answer has another shape than is documented")]
    Shape,
}

impl Coded for BusError {
    fn code(&self) -> ErrorCode {
        match &self.source {
            BusFailure::Exec(ExecError::NotFound(_)) => ErrorCode::Unsupported,
            _ => ErrorCode::Failed,
        }
    }
    fn hint(&self) -> Option<String> {
        matches!(&self.source, BusFailure::Exec(ExecError::NotFound(_)))
            .then(|| "install systemd, which has busctl(1)".into())
    }
}

/// An object of a service, by one of its interfaces.
#[derive(Debug, Clone, Copy)]
pub struct Object {
    /// The service's name on the bus.
    pub service: &'static str,
    /// The object's path.
    pub path: &'static str,
    /// The interface.
    pub interface: &'static str,
}

const BUS: Object = Object {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

impl Object {
    fn error(&self, member: &str) -> impl Fn(BusFailure) -> BusError {
        let (service, member) = (self.service, member.to_owned());
        move |source| BusError { service, member: member.clone(), source }
    }

    /// Whether the service runs. Without a bus nothing does.
    ///
    /// # Errors
    /// The bus does not answer.
    pub fn runs(&self) -> Result<bool, BusError> {
        if !Path::new(SOCKET).exists() {
            return Ok(false);
        }
        let reply = BUS.call("NameHasOwner", &["s", self.service])?;
        reply.get(0).and_then(Value::as_bool).ok_or_else(|| BUS.error("NameHasOwner")(BusFailure::Shape))
    }

    /// Calls `method` with `arguments`: their signature and values, as busctl(1) takes them. Gives what comes back, as a list. A
    /// service that does not run is not started.
    ///
    /// # Errors
    /// It fails.
    pub fn call(&self, method: &str, arguments: &[&str]) -> Result<Value, BusError> {
        let words = ["call", self.service, self.path, self.interface, method];
        self.ask(method, words.iter().chain(arguments))
    }

    /// The value of a property.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn property(&self, name: &str) -> Result<Value, BusError> {
        self.ask(name, ["get-property", self.service, self.path, self.interface, name].iter())
    }

    /// What is wrong with a property that has another shape than is documented.
    pub fn odd(&self, name: &str) -> BusError {
        self.error(name)(BusFailure::Shape)
    }

    fn ask<'a>(&self, member: &str, words: impl Iterator<Item = &'a &'a str>) -> Result<Value, BusError> {
        let error = self.error(member);
        let options = ["--system", "--json=short", "--auto-start=no", TIMEOUT];
        let exec = Exec::new("busctl").args(options).args(words).deadline(DEADLINE).stdout_limit(1 << 20);
        let stdout = exec.run().map_err(|e| error(e.into()))?;
        if stdout.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        let mut reply: Value = serde_json::from_slice(&stdout).map_err(|e| error(e.into()))?;
        Ok(reply["data"].take())
    }
}
