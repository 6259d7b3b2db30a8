//! The database: what each VM *is*. Opened and migrated under a flock; immediate transactions, so that no update is lost.

use std::fs::{DirBuilder, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use serde_json::{Map, Value};
use thiserror::Error;

use super::dir::StateDir;
use banger_contract::record::{Vm, Workspace};
use banger_contract::types::{Cidr, StateId, VmId, VmName};
use banger_contract::{Coded, ErrorCode};
use banger_host::fs::atomic::{self, WriteFileError};

/// Numbered migrations: entry `n` takes `user_version` n to n + 1. Never edit one that was released.
const MIGRATIONS: [&str; 1] = ["
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE vms (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        address TEXT UNIQUE,
        cid INTEGER NOT NULL UNIQUE,
        vm TEXT NOT NULL,
        workspace TEXT,
        phase TEXT NOT NULL CHECK (phase IN ('creating', 'ready')),
        ephemeral INTEGER NOT NULL CHECK (ephemeral IN (0, 1))
    ) STRICT;
"];

/// What can go wrong with the database.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The directory cannot be made or used.
    #[error("cannot use the state directory {path:?}")]
    Directory {
        /// The directory or a file in it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot initialise the state directory")]
    Write(#[from] WriteFileError),
    /// The file `state_id` holds something else.
    #[error("{path:?} does not hold a state id")]
    StateId {
        /// The file.
        path: PathBuf,
    },
    /// A newer banger has been here.
    #[error("{path:?} has schema {found}; this banger knows up to {known}")]
    TooNew {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// SQLite says no.
    #[error("cannot {action} in the state database")]
    Sql {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A row holds what this banger cannot read.
    #[error("the database's entry for VM {0} is not readable")]
    Row(String, #[source] serde_json::Error),
    /// The name is taken.
    #[error("a VM with the name {name} is there already (id {holder})")]
    NameTaken {
        /// The name.
        name: VmName,
        /// Who has it.
        holder: String,
    },
    /// No address is left.
    #[error("the subnet {0} has no free address")]
    SubnetFull(Cidr),
    /// No such VM.
    #[error("no VM has the name or id {0:?}")]
    NotFound(String),
}

impl Coded for StoreError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NameTaken { .. } => ErrorCode::Conflict,
            Self::NotFound(_) => ErrorCode::NotFound,
            Self::TooNew { .. } => ErrorCode::Unsupported,
            Self::Directory { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Denied
            }
            Self::Sql { source, .. } if is_busy(source) => ErrorCode::Busy,
            _ => ErrorCode::Failed,
        }
    }
    fn details(&self) -> Map<String, Value> {
        match self {
            Self::NameTaken { holder, .. } => Map::from_iter([("holder".to_owned(), holder.clone().into())]),
            _ => Map::new(),
        }
    }
    fn hint(&self) -> Option<String> {
        match self {
            Self::NameTaken { name, .. } => {
                Some(format!("choose another --name, or delete it: banger vm delete --force {name}"))
            }
            Self::NotFound(_) => Some("banger ps lists what is there".into()),
            Self::TooNew { .. } => Some("use the newer banger, or another --state-dir".into()),
            Self::Directory { .. } => {
                Some("choose another place with --state-dir or BANGER_STATE_DIR".into())
            }
            Self::Sql { source, .. } if is_damaged(source) => Some(
                "the file state.db in the state directory is damaged: put a copy of it back, or move it away and run banger gc".into(),
            ),
            // SQLite does not say why.
            Self::Sql { source, .. } if is_failed_write(source) => Some(
                "the disk does not take it, or this shell keeps its files small: see df and ulimit -f".into(),
            ),
            Self::SubnetFull(_) => Some("delete VMs that are not needed: banger ps".into()),
            _ => None,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked)
    )
}

fn is_damaged(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt))
}

fn is_failed_write(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE)
}

fn sql(action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sql { action, source }
}

/// How far a VM's making has come, and whether it outlives the command that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// The command that makes it has not finished: if that command is gone, the VM is a wreck.
    pub creating: bool,
    /// It is deleted by the command that made it (`vm run --rm`).
    pub ephemeral: bool,
}

/// A VM as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// The record's section.
    pub vm: Vm,
    /// The workspace as it was last prepared.
    pub workspace: Option<Workspace>,
    /// How far its making has come.
    pub life: Life,
}

/// What the database chose for a new VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The guest's address; `None` outside the subnet (user networking).
    pub address: Option<Ipv4Addr>,
    /// The vsock context identifier.
    pub cid: u32,
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    state_id: StateId,
}

impl Store {
    /// Opens the database of `state`, making directory, state id and schema where they are missing.
    pub fn open(state: &StateDir) -> Result<Self, StoreError> {
        make_directories(state)?;
        let path = state.database();
        // Creating, switching to WAL and migrating race with each other (SQLITE_BUSY despite the timeout), so all of it
        // happens under a lock that is waited for.
        let lock_path = state.locks().join("schema.lock");
        let guard = File::create(&lock_path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|source| StoreError::Directory { path: lock_path, source })?;
        let state_id = ensure_state_id(state)?;
        let mut connection = Connection::open(&path).map_err(sql("open the file"))?;
        configure(&mut connection).map_err(sql("set the connection up"))?;
        migrate(&mut connection, state)?;
        drop(guard);
        Ok(Self { connection, state_id })
    }

    /// Opens the database if there is one; a state directory that nothing was ever made in stays untouched.
    pub fn open_existing(state: &StateDir) -> Result<Option<Self>, StoreError> {
        let path = state.database();
        match path.try_exists() {
            Ok(true) => Self::open(state).map(Some),
            Ok(false) => Ok(None),
            Err(source) => Err(StoreError::Directory { path: state.root().to_owned(), source }),
        }
    }

    /// The state directory's identifier.
    pub fn state_id(&self) -> &StateId {
        &self.state_id
    }

    fn transaction(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.connection.transaction().map_err(sql("begin a transaction"))
    }

    /// A remembered choice.
    pub fn meta(&self, key: &str) -> Result<Option<String>, StoreError> {
        let query =
            self.connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0));
        query.optional().map_err(sql("read a setting"))
    }

    /// Remembers a choice.
    pub fn set_meta(&mut self, key: &str, value: &str) -> Result<(), StoreError> {
        let statement =
            "INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.connection.execute(statement, [key, value]).map_err(sql("write a setting")).map(drop)
    }

    /// Inserts the VM that `make` builds from a fresh lease: one transaction for name, address and CID. `subnet` is `None` for
    /// user networking.
    pub fn insert(
        &mut self,
        name: &VmName,
        subnet: Option<Cidr>,
        life: Life,
        make: impl FnOnce(Lease) -> Vm,
    ) -> Result<Vm, StoreError> {
        let transaction = self.transaction()?;
        require_free(&transaction, name)?;
        let address = subnet.map(|subnet| free_address(&transaction, subnet)).transpose()?;
        let cid = transaction
            .query_row("SELECT COALESCE(MAX(cid), 2) + 1 FROM vms", [], |row| row.get(0))
            .map_err(sql("choose a CID"))?;
        let vm = make(Lease { address, cid });
        let json = serde_json::to_string(&vm).expect("a VM has string keys only");
        let phase = if life.creating { "creating" } else { "ready" };
        transaction
            .execute(
                "INSERT INTO vms (id, name, address, cid, vm, phase, ephemeral) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![vm.id.as_str(), name.as_str(), address.map(|a| a.to_string()), cid, json, phase, life.ephemeral],
            )
            .map_err(sql("insert a VM"))?;
        transaction.commit().map_err(sql("commit a VM"))?;
        Ok(vm)
    }

    /// Checks that a VM can be called so.
    ///
    /// # Errors
    /// One is.
    pub fn require_free(&self, name: &VmName) -> Result<(), StoreError> {
        require_free(&self.connection, name)
    }

    /// All VMs, by name.
    pub fn vms(&self) -> Result<Vec<VmRow>, StoreError> {
        self.select("ORDER BY name", [])
    }

    /// The VM with this name, or else with this identifier.
    pub fn vm(&self, name_or_id: &str) -> Result<VmRow, StoreError> {
        let rows = self.select("WHERE name = ?1 OR id = ?1 ORDER BY name = ?1 DESC LIMIT 1", [name_or_id])?;
        rows.into_iter().next().ok_or_else(|| StoreError::NotFound(name_or_id.chars().take(80).collect()))
    }

    /// VMs that a command which did not finish, or that was to delete them, may have left.
    pub fn suspects(&self) -> Result<Vec<VmRow>, StoreError> {
        self.select("WHERE phase = 'creating' OR ephemeral = 1 ORDER BY name", [])
    }

    fn select(&self, clause: &str, arguments: impl rusqlite::Params) -> Result<Vec<VmRow>, StoreError> {
        let text = format!("SELECT id, vm, workspace, phase, ephemeral FROM vms {clause}");
        let mut statement = self.connection.prepare_cached(&text).map_err(sql("prepare a query"))?;
        let rows = statement.query_map(arguments, raw_row).map_err(sql("list VMs"))?;
        rows.map(|row| parse_row(row.map_err(sql("read a VM"))?)).collect()
    }

    /// Says that the VM's making has finished.
    pub fn set_life(&mut self, id: &VmId, life: Life) -> Result<(), StoreError> {
        let phase = if life.creating { "creating" } else { "ready" };
        let statement = "UPDATE vms SET phase = ?2, ephemeral = ?3 WHERE id = ?1";
        self.connection
            .execute(statement, params![id.as_str(), phase, life.ephemeral])
            .map_err(sql("update a VM"))
            .map(drop)
    }

    /// Replaces what the VM is. Its name and leases stay.
    pub fn set_vm(&mut self, vm: &Vm) -> Result<(), StoreError> {
        let json = serde_json::to_string(vm).expect("a VM has string keys only");
        self.connection
            .execute("UPDATE vms SET vm = ?2 WHERE id = ?1", [vm.id.as_str(), &json])
            .map_err(sql("change a VM"))
            .map(drop)
    }

    /// Records the workspace as it was prepared.
    pub fn set_workspace(&mut self, id: &VmId, workspace: &Workspace) -> Result<(), StoreError> {
        let json = serde_json::to_string(workspace).expect("a workspace has string keys only");
        self.connection
            .execute("UPDATE vms SET workspace = ?2 WHERE id = ?1", [id.as_str(), &json])
            .map_err(sql("record a workspace"))
            .map(drop)
    }

    /// Removes the VM's row; one that is not there is no error.
    pub fn remove(&mut self, id: &VmId) -> Result<(), StoreError> {
        self.connection
            .execute("DELETE FROM vms WHERE id = ?1", [id.as_str()])
            .map_err(sql("delete a VM"))
            .map(drop)
    }
}

type RawRow = (String, String, Option<String>, String, bool);

fn raw_row(row: &Row<'_>) -> rusqlite::Result<RawRow> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn parse_row((id, vm, workspace, phase, ephemeral): RawRow) -> Result<VmRow, StoreError> {
    let parse = || {
        Ok(VmRow {
            vm: serde_json::from_str(&vm)?,
            workspace: workspace.as_deref().map(serde_json::from_str).transpose()?,
            life: Life { creating: phase == "creating", ephemeral },
        })
    };
    parse().map_err(|source| StoreError::Row(id, source))
}

fn require_free(connection: &Connection, name: &VmName) -> Result<(), StoreError> {
    let holder = connection
        .query_row("SELECT id FROM vms WHERE name = ?1", [name.as_str()], |row| row.get(0))
        .optional()
        .map_err(sql("look a name up"))?;
    holder.map_or(Ok(()), |holder| Err(StoreError::NameTaken { name: name.clone(), holder }))
}

/// The lowest address of `subnet` that no VM has; the first is the gateway's, the last the broadcast's.
fn free_address(transaction: &Transaction<'_>, subnet: Cidr) -> Result<Ipv4Addr, StoreError> {
    let mut statement = transaction
        .prepare("SELECT address FROM vms WHERE address IS NOT NULL")
        .map_err(sql("read addresses"))?;
    let taken = statement
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<Result<std::collections::HashSet<_>, _>>)
        .map_err(sql("read addresses"))?;
    let broadcast = (1u32 << (32 - u32::from(subnet.prefix_len().clamp(1, 32)))) - 1;
    let mut candidates = (2..broadcast).filter_map(|n| subnet.nth(n));
    candidates.find(|a| !taken.contains(&a.to_string())).ok_or(StoreError::SubnetFull(subnet))
}

fn make_directories(state: &StateDir) -> Result<(), StoreError> {
    let all = [
        state.root().to_owned(),
        state.ssh(),
        state.locks(),
        state.vms(),
        state.images(),
        state.kernels(),
        state.cache(),
    ];
    for path in all {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|source| StoreError::Directory { path, source })?;
    }
    Ok(())
}

fn ensure_state_id(state: &StateDir) -> Result<StateId, StoreError> {
    let path = state.state_id();
    match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().map_err(|_| StoreError::StateId { path }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = StateId::from_bytes(banger_host::random::bytes());
            atomic::write(&path, format!("{id}\n").as_bytes(), 0o600)?;
            Ok(id)
        }
        Err(source) => Err(StoreError::Directory { path, source }),
    }
}

fn configure(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_transaction_behavior(TransactionBehavior::Immediate);
    Ok(())
}

/// Brings the schema up to date. An older one that holds something is backed up first, beside the database.
fn migrate(connection: &mut Connection, state: &StateDir) -> Result<(), StoreError> {
    let path = state.database();
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(sql("read the schema version"))?;
    let known = MIGRATIONS.len() as u32;
    if found > known {
        return Err(StoreError::TooNew { path, found, known });
    }
    if found > 0 && found < known {
        let backup = path.with_extension(format!("db.v{found}"));
        let text = backup.to_string_lossy().into_owned();
        // A backup that a crashed migration left is of the same schema, so it may be replaced.
        drop(std::fs::remove_file(&backup));
        connection.execute("VACUUM INTO ?1", [text]).map_err(sql("back the database up"))?;
    }
    for (number, statements) in (1u32..).zip(MIGRATIONS).skip(found as usize) {
        let transaction = connection.transaction().map_err(sql("begin a migration"))?;
        transaction.execute_batch(statements).map_err(sql("migrate"))?;
        transaction.pragma_update(None, "user_version", number).map_err(sql("migrate"))?;
        transaction.commit().map_err(sql("commit a migration"))?;
    }
    Ok(())
}

/// Tells whether the database knows a VM: the list is from before, and a VM may have been planned since. A database that cannot be
/// read keeps everything.
pub fn recorded(state: &StateDir) -> Result<impl Fn(&VmId) -> bool, StoreError> {
    let store = Store::open_existing(state)?;
    Ok(move |id: &VmId| {
        let vms = store.as_ref().map(Store::vms);
        vms.is_some_and(|vms| vms.map_or(true, |rows| rows.iter().any(|row| row.vm.id == *id)))
    })
}

#[cfg(test)]
#[path = "db_tests.rs"]
mod tests;
