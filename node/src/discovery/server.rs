//! A real DNS server over UDP whose answers the test changes while it runs.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Stops when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    table: Arc<Mutex<BTreeMap<String, Reply>>>,
    asked: watch::Receiver<Vec<String>>,
    task: AbortHandle,
}

/// How one name is answered; a name that is not in the table does not exist.
#[derive(Clone)]
pub(super) enum Reply {
    /// These addresses, by family.
    Addresses(Vec<IpAddr>),
    /// SERVFAIL.
    Failure,
    /// SERVFAIL for AAAA alone, and these for A.
    OnlyV6Fails(Vec<IpAddr>),
    /// Nothing at all.
    Silence,
}

impl Server {
    pub(super) async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let table = Arc::<Mutex<BTreeMap<_, _>>>::default();
        let (log, asked) = watch::channel(Vec::new());
        let task = tokio::spawn(serve(socket, table.clone(), log)).abort_handle();
        Self { address, table, asked, task }
    }

    /// Answers with these addresses from now on. Names end with a dot.
    pub(super) fn set<const N: usize>(&self, name: &str, addresses: [&str; N]) {
        let addresses = addresses.map(|ip| ip.parse().unwrap()).to_vec();
        self.reply(name, Reply::Addresses(addresses));
    }

    pub(super) fn reply(&self, name: &str, reply: Reply) {
        self.table.lock().unwrap().insert(name.to_owned(), reply);
    }

    /// Every question so far, in order: `name. TYPE`.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }

    /// Waits for this many questions in all.
    pub(super) async fn asked_times(&self, times: usize) {
        self.asked.clone().wait_for(|asked| asked.len() >= times).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    socket: UdpSocket,
    table: Arc<Mutex<BTreeMap<String, Reply>>>,
    asked: watch::Sender<Vec<String>>,
) {
    let mut buffer = [0; 4096];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let question = Message::from_vec(&buffer[..length]).unwrap();
        let query = question.queries[0].clone();
        let (name, kind) = (query.name().to_ascii().to_lowercase(), query.query_type());
        asked.send_modify(|asked| asked.push(format!("{name} {kind}")));
        let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        let reply = table.lock().unwrap().get(&name).cloned();
        let addresses = match reply {
            Some(Reply::Silence) => continue,
            Some(Reply::Addresses(addresses)) => addresses,
            Some(Reply::OnlyV6Fails(addresses)) if kind == RecordType::A => addresses,
            Some(Reply::Failure | Reply::OnlyV6Fails(_)) => {
                answer.metadata.response_code = ResponseCode::ServFail;
                Vec::new()
            }
            None => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                Vec::new()
            }
        };
        for data in addresses.into_iter().map(RData::from) {
            if data.record_type() == kind {
                // An hour: whoever kept a cache would be seen to.
                answer.add_answer(Record::from_rdata(query.name().clone(), 3600, data));
            }
        }
        answer.add_query(query);
        socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
    }
}
