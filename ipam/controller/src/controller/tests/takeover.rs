//! Addresses of services that Calico gave out, on a store that has the addresses and not the Services.

use super::*;

const BLOCK: &str = "172.20.0.0/26";
const WAIT: Duration = Duration::from_secs(20 * 60);

/// Services a, b and c have an address each, under the uids that they have in Kubernetes.
async fn lab() -> (DynStore, Ipam) {
    let store: DynStore = Arc::new(MemoryStore::new());
    add_pool(&store).await;
    let ipam = Ipam::new(store.clone());
    for (i, name) in ["a", "b", "c"].into_iter().enumerate() {
        let owner = AffinityOwner::Virtual(LOAD_BALANCER_OWNER.into());
        let attributes = plan::service_attributes(&("test".into(), name.into()), None);
        let handle = ipam::handle::for_service(name, "test", &format!("uid-{name}"));
        let ip = format!("172.20.0.{}", 40 + i).parse().unwrap();
        ipam.assign_ip_in_block(ip, BLOCK.parse().unwrap(), &handle, attributes, owner).await.unwrap();
    }
    (store, ipam)
}

/// As it is imported: a uid of its own, and the status that it had.
async fn import(store: &DynStore, name: &str, ip: &str) {
    let mut body = ServiceBody::default();
    body.spec.service_type = ServiceType::LoadBalancer;
    body.spec.ports = vec![ServicePort { port: 80, ..ServicePort::default() }];
    let mut service = Service::new(Metadata::namespaced("test", name), body);
    plan::set_ingress(&mut service, &[ip.parse().unwrap()]);
    typed::create(store.as_ref(), &service).await.unwrap();
}

async fn taken(ipam: &Ipam) -> Vec<String> {
    let mut taken = Vec::new();
    for i in 40..43 {
        let ip = format!("172.20.0.{i}");
        if let Some(info) = ipam.ip_info(ip.parse().unwrap()).await.unwrap().filter(|i| i.handle.is_some()) {
            taken.push(format!("{ip} {}", info.attributes[api::ipam::attr::SERVICE]));
        }
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn without_any_service_no_address_of_one_is_released() {
    let (store, ipam) = lab().await;
    let report = Arc::new(Mutex::new(Report::default()));
    let task = tokio::spawn(Controller::new(store.clone(), settings(), report.clone()).run());
    let all = ["172.20.0.40 a", "172.20.0.41 b", "172.20.0.42 c"];
    tokio::time::sleep(WAIT * 3).await;
    assert_eq!(taken(&ipam).await, all);
    assert_eq!(report.lock().unwrap().held, 3);
    // They come one by one: each takes up what it had, the others wait for theirs.
    import(&store, "b", "172.20.0.41").await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(taken(&ipam).await, all);
    import(&store, "a", "172.20.0.40").await;
    tokio::time::sleep(WAIT).await;
    assert_eq!(taken(&ipam).await, all[..2], "the third never came");
    assert_eq!(report.lock().unwrap().held, 0);
    for (name, ip) in [("a", "172.20.0.40"), ("b", "172.20.0.41")] {
        let service = typed::get::<ServiceBody>(store.as_ref(), Some("test"), name).await.unwrap().unwrap();
        assert_eq!(plan::ingress_of(&service).collect::<Vec<_>>(), [ip.parse::<IpAddr>().unwrap()]);
        let handle = plan::handle_of(&("test".into(), name.into()), &service).unwrap();
        let info = ipam.ip_info(ip.parse().unwrap()).await.unwrap().unwrap();
        assert_eq!(info.handle, Some(handle), "its own now");
    }
    // From then on the last one that goes is one that goes.
    for name in ["a", "b"] {
        typed::delete(store.as_ref(), &Key::resource(Kind::Service, Some("test"), name)).await.unwrap();
    }
    eventually!(taken(&ipam).await.is_empty());
    task.abort();
}

/// Services that are there when the controller starts are all there are.
#[tokio::test(start_paused = true)]
async fn services_that_were_imported_before_the_start_take_up_their_addresses() {
    let (store, ipam) = lab().await;
    for (name, ip) in [("a", "172.20.0.40"), ("b", "172.20.0.41")] {
        import(&store, name, ip).await;
    }
    let _lab = Lab::start(store.clone());
    eventually!(taken(&ipam).await == ["172.20.0.40 a", "172.20.0.41 b"]);
    for (name, ip) in [("a", "172.20.0.40"), ("b", "172.20.0.41")] {
        let service = typed::get::<ServiceBody>(store.as_ref(), Some("test"), name).await.unwrap().unwrap();
        assert_eq!(plan::ingress_of(&service).collect::<Vec<_>>(), [ip.parse::<IpAddr>().unwrap()]);
    }
}
