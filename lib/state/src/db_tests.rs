//! Tests of the database: leases, names, migrations, and many processes at once.

use super::*;
use banger_contract::record::{DiskBackend, Egress, Init, NetMode, Paths, VmmKind};
use banger_contract::types::{Environment, MacAddr};

const READY: Life = Life { creating: false, ephemeral: false };

fn vm(store: &Store, name: &VmName, lease: Lease) -> Vm {
    let address = lease.address.unwrap_or(Ipv4Addr::new(10, 0, 2, 15));
    Vm {
        id: VmId::from_bytes(banger_host::random::bytes()),
        name: name.clone(),
        state_id: store.state_id().clone(),
        owner_uid: 0,
        created_at: "2026-01-01T00:00:00.000Z".into(),
        image: "debian".parse().unwrap(),
        kernel: None,
        env: Environment::default(),
        init: Init::Lean,
        hostname: name.clone(),
        vcpus: 1,
        memory_mib: 512,
        rootfs_size_bytes: 1,
        work_size_bytes: 1,
        ttl_s: None,
        address,
        prefix_len: 24,
        gateway: Ipv4Addr::new(10, 213, 0, 1),
        mac: MacAddr::for_guest(address),
        cid: lease.cid,
        net_mode: NetMode::Tap,
        nat: true,
        egress: Egress::default(),
        peer: false,
        open_firewall: false,
        disk_rate_bytes_s: None,
        net_rate_bytes_s: None,
        mtu: None,
        publish: Vec::new(),
        disk_backend: DiskBackend::Auto,
        max_changes_bytes: None,
        vmm_kind: VmmKind::Auto,
        paths: Paths {
            dir: "/x".into(),
            rootfs: "/x".into(),
            kernel: "/x".into(),
            kernel_elf: "/x".into(),
            initrd: "/x".into(),
            work_seed: "/x".into(),
            upper_seed: "/x".into(),
        },
    }
}

fn add(store: &mut Store, name: &str, subnet: Option<Cidr>) -> Result<Vm, StoreError> {
    let name: VmName = name.parse().unwrap();
    let draft = vm(store, &name, Lease { address: None, cid: 0 });
    store.insert(&name, subnet, READY, |lease| Vm {
        address: lease.address.unwrap_or(draft.address),
        cid: lease.cid,
        ..draft
    })
}

#[test]
fn leases_are_unique_and_reused_after_removal() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = Store::open(&StateDir::at(temp.path())).unwrap();
    let subnet: Cidr = "10.213.0.0/29".parse().unwrap();
    let vms: Vec<Vm> =
        ["a", "b", "c", "d", "e"].iter().map(|n| add(&mut store, n, Some(subnet)).unwrap()).collect();
    assert_eq!(vms[0].address, Ipv4Addr::new(10, 213, 0, 2));
    assert_eq!(vms[4].address, Ipv4Addr::new(10, 213, 0, 6), "the broadcast address .7 is nobody's");
    assert!(matches!(add(&mut store, "f", Some(subnet)), Err(StoreError::SubnetFull(_))));
    store.remove(&vms[1].id).unwrap();
    assert_eq!(add(&mut store, "f", Some(subnet)).unwrap().address, vms[1].address);
    assert_eq!(add(&mut store, "g", None).unwrap().cid, 9);
}

#[test]
fn a_taken_name_is_a_conflict_that_names_its_holder() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = Store::open(&StateDir::at(temp.path())).unwrap();
    let holder = add(&mut store, "a", None).unwrap();
    let error = add(&mut store, "a", None).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Conflict);
    assert_eq!(error.details()["holder"], holder.id.as_str());
    assert_eq!(store.vms().unwrap().len(), 1);
}

#[test]
fn many_openers_at_once_make_one_database() {
    let temp = tempfile::tempdir().unwrap();
    let state = StateDir::at(temp.path());
    let subnet: Cidr = "10.213.0.0/24".parse().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let state = &state;
            scope.spawn(move || {
                for n in 0..4 {
                    let mut store = Store::open(state).unwrap();
                    add(&mut store, &format!("t{thread}-{n}"), Some(subnet)).unwrap();
                }
            });
        }
    });
    let rows = Store::open(&state).unwrap().vms().unwrap();
    let addresses: std::collections::HashSet<_> = rows.iter().map(|r| r.vm.address).collect();
    let cids: std::collections::HashSet<_> = rows.iter().map(|r| r.vm.cid).collect();
    assert_eq!((rows.len(), addresses.len(), cids.len()), (32, 32, 32));
}

#[test]
fn a_newer_schema_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let state = StateDir::at(temp.path());
    drop(Store::open(&state).unwrap());
    Connection::open(state.database()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = Store::open(&state).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.to_string().contains("99"), "{error}");
}
