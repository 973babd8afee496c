"""The one command, `parkfleet`: finds a group's module when it is asked for, and not before."""

import importlib
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from parkfleet import __version__

#: name -> (module with `app`, what it is for). The order is that of --help.
GROUPS: Final = {
    "agent": ("parkfleet.agent.cli", "On the gateway: check a configuration, run the agent."),
    "controller": ("parkfleet.controller.cli", "In the control room: run the fleet controller."),
    "fleet": ("parkfleet.controller.fleet_cli", "Ask the controller about the fleet's gateways."),
    "sim": ("parkfleet.simulators.cli", "Simulated meters and lines, for tests and demonstrations."),
    "demo": ("parkfleet.simulators.demo.cli", "The whole way, from simulated meters to a consumer, on this machine."),
    "tail": ("parkfleet.protocols.payload.tail", "See what a consumer sees: readings decoded as they arrive."),
}


class LazyGroup(TyperGroup):
    """A group whose members are imported when one of them is called; --help and typos need only their names."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, help=help_text) for name, (_, help_text) in GROUPS.items()}

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that is really called, or completed."""
        if args[0] not in GROUPS:
            return super().resolve_command(ctx, args)
        command = typer.main.get_command(importlib.import_module(GROUPS[args[0]][0]).app)
        return args[0], command, args[1:]


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a plain traceback: the pretty one may print secrets among the locals
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: parkfleet agent check gateway.yaml && parkfleet agent run --config gateway.yaml",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"parkfleet {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """ParkFleet: meters of industrial parks, from the cabinet to the control room."""


def main() -> None:
    """Entry point of the command."""
    app()
