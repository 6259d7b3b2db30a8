//! What a guest is told and given: its configuration and the files that banger-guest lays over its root.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attach::Attach;
use super::disk_error::DiskError;
use super::{file_sync, volumes};
use crate::sys::host_ca::{self, Authority};
use banger_contract::record::{DiskBackend, Init, Net, Vm};
use banger_contract::types::Proxy;
use banger_formats::ext4;
use banger_protocol::guest::{
    AUTHORIZED_KEYS_PATH, GuestCa, GuestConfig, HOST_BUNDLE_PATH, HOST_KEY_PATH, NO_PROXY_VARIABLES,
    PROXY_VARIABLES,
};
use banger_state::dir::VmDir;

/// The largest key file that is read, bytes.
const MAX_KEY_BYTES: u64 = 16 << 10;

/// Where git looks for the identity.
const GITCONFIG: &str = "root/.gitconfig";

/// Who commits in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitIdentity {
    /// `user.name`.
    pub name: Option<String>,
    /// `user.email`.
    pub email: Option<String>,
}

/// The configuration without what is new at every attach: entropy and time.
pub(super) fn config(
    vm: &Vm,
    net: &Net,
    backend: DiskBackend,
    request: &Attach,
) -> Result<GuestConfig, DiskError> {
    let uuid = |path: &str| ext4::uuid(Path::new(path)).map_err(DiskError::from);
    let upper_uuid = match backend {
        DiskBackend::Overlay => Some(uuid(&vm.paths.upper_seed)?),
        _ => None,
    };
    let init = match vm.init {
        Init::Lean => "lean",
        Init::Systemd => "systemd",
    };
    // The UUIDs are those of the image's files: a VM's own have been written by its guest, and are not read here.
    Ok(GuestConfig {
        vm_id: vm.id.to_string(),
        hostname: vm.hostname.to_string(),
        init: init.to_owned(),
        env: variables(vm, net, request.proxy),
        root_uuid: uuid(&vm.paths.rootfs)?,
        upper_uuid,
        work_uuid: uuid(&vm.paths.work_seed)?,
        mac: vm.mac.to_string(),
        address: net.address,
        prefix_len: net.prefix_len,
        gateway: net.gateway,
        dns: net.dns.clone(),
        mtu: net.mtu,
        host_ca: request.trust.added.iter().map(guest_ca).collect(),
        entropy_seed: String::new(),
        time_unix_s: 0,
    })
}

/// The image's variables, and the proxy's over them: it is asked for by name. Guest and host talk to each other without it, and so do
/// guests.
fn variables(vm: &Vm, net: &Net, proxy: Option<&Proxy>) -> BTreeMap<String, String> {
    let mut variables = vm.env.variables().clone();
    if let Some(proxy) = proxy {
        let directly = format!("localhost,127.0.0.1,::1,{},.vm", net.gateway);
        let pairs = PROXY_VARIABLES.map(|name| (name.to_owned(), proxy.with_credentials()));
        variables.extend(pairs);
        variables.extend(NO_PROXY_VARIABLES.map(|name| (name.to_owned(), directly.clone())));
    }
    variables
}

fn guest_ca(authority: &Authority) -> GuestCa {
    GuestCa {
        pem: host_ca::pem(&authority.der),
        sha256: authority.sha256.clone(),
        subject_hash: authority.subject_hash.clone(),
    }
}

/// The tar of files: the user's own, the git identity unless these bring one, what the host trusts where that is more than its
/// distribution, the guest's host key, the key that may log in. The last of a name counts, so that nobody locks banger out. Beside it
/// what was left out, for people.
pub(super) fn tar(vm: &Vm, dir: &VmDir, request: &Attach) -> Result<(Vec<u8>, Vec<String>), DiskError> {
    let Attach { state, identity, file_sync, trust, .. } = *request;
    let key = read_key(vm, &dir.host_key())?;
    let public = read_public_key(vm, &dir.host_key_pub())?;
    let client = read_public_key(vm, &state.client_key().with_extension("pub"))?;
    let mut tar = tar::Builder::new(Vec::new());
    let packed = file_sync::pack(&mut tar, file_sync)?;
    let own_gitconfig =
        file_sync.iter().any(|sync| sync.guest_path().as_deref() == Some(Path::new(GITCONFIG)));
    let mut add = |path: &str, mode: u32, content: Option<&[u8]>| -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        let kind = if content.is_some() { tar::EntryType::Regular } else { tar::EntryType::Directory };
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let content = content.unwrap_or_default();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content)
    };
    let mut fill = || -> io::Result<()> {
        add(HOST_KEY_PATH, 0o600, Some(&key))?;
        add(&format!("{HOST_KEY_PATH}.pub"), 0o644, Some(&public))?;
        if let Some((directory, _)) = AUTHORIZED_KEYS_PATH.rsplit_once('/') {
            add(&format!("{directory}/"), 0o700, None)?;
        }
        add(AUTHORIZED_KEYS_PATH, 0o600, Some(&client))?;
        if !trust.bundle.is_empty() {
            add(HOST_BUNDLE_PATH, 0o600, Some(trust.bundle.as_bytes()))?;
        }
        if let Some(config) = gitconfig(identity).filter(|_| !own_gitconfig) {
            add(GITCONFIG, 0o644, Some(config.as_bytes()))?;
        }
        Ok(())
    };
    let error = |source| DiskError::Make { path: dir.initrd(), source };
    fill().map_err(error)?;
    Ok((tar.into_inner().map_err(error)?, packed.left_out))
}

fn read_key(vm: &Vm, path: &Path) -> Result<Vec<u8>, DiskError> {
    if !path.exists() {
        return Err(DiskError::VmFile { vm: vm.id.clone(), path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let read = volumes::open(path)?.take(MAX_KEY_BYTES).read_to_end(&mut bytes);
    read.map_err(|source| DiskError::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// A public key: one line, so that a damaged file does not let anybody else in.
fn read_public_key(vm: &Vm, path: &Path) -> Result<Vec<u8>, DiskError> {
    let bytes = read_key(vm, path)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default();
    let key = ssh_key::PublicKey::from_openssh(text).ok();
    let line = key.and_then(|key| key.to_openssh().ok());
    let mut line = line.ok_or_else(|| DiskError::Key { path: path.to_owned() })?;
    line.push('\n');
    Ok(line.into_bytes())
}

/// The identity in git-config(1)'s syntax; `None` where there is none.
fn gitconfig(identity: &GitIdentity) -> Option<String> {
    let quoted = |key: &str, value: &Option<String>| {
        let value = value.as_ref()?.replace('\\', "\\\\").replace('"', "\\\"");
        Some(format!("\t{key} = \"{value}\"\n"))
    };
    let lines = [quoted("name", &identity.name), quoted("email", &identity.email)];
    let lines: String = lines.into_iter().flatten().collect();
    (!lines.is_empty()).then(|| format!("[user]\n{lines}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_quoted_for_git() {
        let identity = GitIdentity { name: Some("A \"B\" \\ C".into()), email: None };
        assert_eq!(gitconfig(&identity).unwrap(), "[user]\n\tname = \"A \\\"B\\\" \\\\ C\"\n");
        assert_eq!(gitconfig(&GitIdentity::default()), None);
    }
}
