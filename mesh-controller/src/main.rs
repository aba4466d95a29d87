//! The controller's process: flags in, exit code out. All else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use mesh_controller::config::{Command, Config};
use mesh_controller::reconcile::uninstall;
use mesh_controller::run::Controller;
use mesh_telemetry::{logs, shutdown};

/// kube says in its own words, and again each time, what the controller says once with the remedy.
const LOG: &str = "info,kube_runtime=error,kube_client=error";

fn main() -> ExitCode {
    let config = Config::parse();
    if let Err(error) = logs::init(config.log_format, LOG) {
        return fail(&error, 2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    runtime.block_on(async {
        if let Some(Command::Uninstall { timeout }) = config.command {
            return match uninstall::run(&config, timeout).await {
                Ok(left) if left.is_empty() => ExitCode::SUCCESS,
                Ok(_) => ExitCode::FAILURE,
                Err(error) => fail(&error, error.exit_code()),
            };
        }
        let shutdown = match shutdown::signals() {
            Ok(shutdown) => shutdown,
            Err(error) => return fail(&error, 1),
        };
        let controller = match Controller::open(&config, shutdown).await {
            Ok(controller) => controller,
            Err(error) => return fail(&error, error.exit_code()),
        };
        match controller.run().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error, error.exit_code()),
        }
    })
}

/// One line that names the thing and the remedy.
fn fail(error: &(dyn std::error::Error + 'static), code: u8) -> ExitCode {
    eprintln!("mesh-controller: {}", mesh_controller::chain(error));
    ExitCode::from(code)
}
