//! The arguments of `banger image build`.

use banger_lib::types::ImageName;
use clap::Args;

#[derive(Debug, Args)]
pub struct ImageBuild {
    /// The image's name
    #[arg(value_name = "IMAGE", default_value = "debian")]
    pub name: ImageName,
    /// The Debian suite
    #[arg(long, value_name = "SUITE")]
    pub suite: Option<String>,
    /// The mirror to take packages from [default: the host's, else mmdebstrap's]
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// A further package; may be given several times
    #[arg(long = "package", value_name = "PACKAGE")]
    pub packages: Vec<String>,
}
