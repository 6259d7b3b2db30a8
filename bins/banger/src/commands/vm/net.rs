//! `banger vm net`.

use std::process::ExitCode;

use banger_contract::error::escape_controls;
use banger_contract::record::NetMode;
use banger_contract::reply::NetworkReply;
use serde_json::Value;

use crate::context::{self, Context, Result};
use crate::options::OneVm;
use crate::stage::{self, Stage};
use crate::{lifecycle, observed, table};

pub fn net(context: &Context, args: &OneVm) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    let document = observed::current(&row)?;
    let counts = row.vm.net_mode == NetMode::Tap && document.net()?.is_some();
    let stage = Stage::new("banger-netd", "status").privileged(counts);
    if context.explain {
        return Ok(context::print(&stage::pipeline(&row.vm.name, [&stage])));
    }
    let value = stage.run(context, document.to_value().to_string().as_bytes(), None)?;
    if context.json {
        return Ok(context::emit(&value));
    }
    Ok(match serde_json::from_value::<NetworkReply>(value.clone()) {
        Ok(reply) => context::print(&shown(&reply)),
        // A banger-netd of another version: what it says is shown as it is.
        Err(_) => context::print(&table::pretty(&value)),
    })
}

fn shown(reply: &NetworkReply) -> String {
    let yes = |on: bool| if on { "on" } else { "off" }.to_owned();
    let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(" ") };
    let attached = if reply.attached { "" } else { " (not attached)" };
    let mode = match reply.mode {
        NetMode::Tap => "tap",
        NetMode::User => "user",
    };
    let facts = [
        ("name", format!("{} ({})", reply.name, reply.id)),
        ("mode", format!("{mode}{attached}")),
        ("address", format!("{}/{}", reply.address, reply.prefix_len)),
        ("gateway", reply.gateway.to_string()),
        ("mac", reply.mac.to_string()),
        ("dns", list(reply.dns.iter().map(ToString::to_string).collect())),
        ("nat", yes(reply.nat)),
        ("egress", reply.egress.to_string()),
        ("peer", yes(reply.peer)),
        ("published", list(reply.publish.iter().map(ToString::to_string).collect())),
    ];
    let mut text = table::table(&["NETWORK", ""], facts.map(|(name, value)| vec![name.to_owned(), value]));
    if !reply.rules.is_empty() {
        let rows = reply.rules.iter().map(|count| {
            vec![count.packets.to_string(), Value::from(count.bytes).to_string(), count.rule.clone()]
        });
        text.push('\n');
        text.push_str(&table::table(&["PACKETS", "BYTES", "RULE"], rows));
    }
    for blocked in &reply.blocked_by {
        text.push_str(&format!(
            "\n{} drops what the VM sends and what is sent to it; to let its bridge through:\n    {}\n",
            escape_controls(&blocked.firewall),
            escape_controls(&blocked.fix)
        ));
    }
    text
}
