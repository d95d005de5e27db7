"""The command ``xaimoe-runtime stream``."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from xaimoe_runtime.errors import EXIT_INTERRUPTED, ConfigError
from xaimoe_runtime.options import (
    BudgetOption,
    BundlePath,
    ChannelOption,
    HopOption,
    MaxNoveltyOption,
    MemoryOption,
    MinScoreOption,
    PercentileOption,
    PrecisionOption,
    ProviderOption,
    ProviderOptionsOption,
    PublicKeyOption,
    RoutingOption,
    ThreadsOption,
)
from xaimoe_runtime.streams.pcm import Encoding

if TYPE_CHECKING:
    from xaimoe_runtime.streams.listener import Listener

RAW, NETWORK, EVENTS, TROUBLE = "Source", "Network sources", "Events", "Overload and dead sources"
OUTPUT, BROKER = "Output", "MQTT broker"


def stream(
    bundle: BundlePath,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A file; - for raw samples on standard input; udp://HOST:PORT or rtp://HOST:PORT for datagrams of "
            "them; tcp://HOST:PORT for a server, or tcp://HOST:PORT?listen for clients, that send them; mic or "
            "mic:DEVICE for a sound card.",
        ),
    ],
    rate: Annotated[
        int | None,
        typer.Option(min=1, help="Sampling rate in Hz, of raw samples or of the sound card.", rich_help_panel=RAW),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of channels, of raw samples (interleaved) or of the sound card.",
            show_default="1",
            rich_help_panel=RAW,
        ),
    ] = None,
    encoding: Annotated[
        Encoding | None,
        typer.Option(
            help="Encoding of raw samples: little-endian, or big-endian with the ending be.",
            show_default="s16; s16be for rtp://",
            rich_help_panel=RAW,
        ),
    ] = None,
    realtime: Annotated[
        bool,
        typer.Option(
            "--realtime", help="Read a file as slowly as it was recorded, like a live source.", rich_help_panel=RAW
        ),
    ] = False,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Let the program that writes to standard input wait when this one is busy; give up no samples.",
            rich_help_panel=RAW,
        ),
    ] = False,
    sender: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="ADDRESS",
            help="Accept only senders of this address or network, as 192.168.1.20 or 192.168.1.0/24; may be repeated.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    header_bytes: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_000,
            metavar="N",
            help="Length of the header that each datagram of udp:// has before its samples.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    counter: Annotated[
        str | None,
        typer.Option(
            metavar="OFFSET:FORMAT[:frames]",
            help="Where that header counts datagrams (or frames), so that lost ones are known: 4:u32be, for instance; "
            "u8, u16le, u16be, u32le, u32be, u64le or u64be.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    threshold: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[LABEL=]SCORE",
            help="Score at which an event of a label, or of all labels, begins. May be repeated. Default: the model's "
            "threshold, or 0.5.",
            rich_help_panel=EVENTS,
        ),
    ] = None,
    off: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of that score below which an event ends.", rich_help_panel=EVENTS),
    ] = None,
    smooth: Annotated[
        int | None, typer.Option(min=1, help="Number of windows whose scores are averaged.", rich_help_panel=EVENTS)
    ] = None,
    min_duration: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Minimum duration of an event in seconds; shorter ones are not reported.",
            rich_help_panel=EVENTS,
        ),
    ] = None,
    refractory: Annotated[
        float | None,
        typer.Option(
            min=0, help="Seconds after an event in which no other of its label begins.", rich_help_panel=EVENTS
        ),
    ] = None,
    backlog: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum number of windows that wait, and of hops that each may wait; others are given up.",
            rich_help_panel=TROUBLE,
        ),
    ] = 4,
    buffer: Annotated[
        float,
        typer.Option(
            help="Maximum seconds of samples that wait; samples beyond that are lost.", rich_help_panel=TROUBLE
        ),
    ] = 10.0,
    dead_after: Annotated[
        float,
        typer.Option(
            help="Seconds without samples, or with zeros alone, after which an error is reported.",
            rich_help_panel=TROUBLE,
        ),
    ] = 10.0,
    out: Annotated[
        Path | None, typer.Option(help="File to append JSON Lines to, instead of stdout.", rich_help_panel=OUTPUT)
    ] = None,
    only_events: Annotated[
        bool, typer.Option("--only-events", help="Write no records of windows.", rich_help_panel=OUTPUT)
    ] = False,
    summary_every: Annotated[
        float | None,
        typer.Option(
            help="Seconds from one summary to the next.", show_default="only at the end", rich_help_panel=OUTPUT
        ),
    ] = None,
    mqtt: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Also publish records: mqtt://[USER@]HOST[:PORT]/TOPIC, or mqtts:// with TLS. User and password may "
            "be in XAIMOE_MQTT_USER and XAIMOE_MQTT_PASSWORD.",
            rich_help_panel=BROKER,
        ),
    ] = None,
    mqtt_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Certificates in PEM of the authorities that may sign the broker's certificate, instead of the "
            "system's.",
            rich_help_panel=BROKER,
        ),
    ] = None,
    mqtt_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Certificate in PEM that the broker knows this client by.", rich_help_panel=BROKER
        ),
    ] = None,
    mqtt_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Private key in PEM of that certificate, if it is not in the same file; a passphrase may be in "
            "XAIMOE_MQTT_KEY_PASSWORD.",
            rich_help_panel=BROKER,
        ),
    ] = None,
    prometheus: Annotated[
        str | None,
        typer.Option(metavar="[HOST:]PORT", help="Serve metrics for Prometheus at /metrics.", rich_help_panel=OUTPUT),
    ] = None,
    memory_mb: MemoryOption = None,
    fifo: Annotated[
        int | None,
        typer.Option(
            min=1, max=99, help="Real-time priority (SCHED_FIFO) of the process, where the system permits it."
        ),
    ] = None,
    routing: RoutingOption = None,
    channel: ChannelOption = "mix",
    hop: HopOption = None,
    min_score: MinScoreOption = 0.0,
    max_novelty: MaxNoveltyOption = 1.0,
    budget_ms: BudgetOption = None,
    percentile: PercentileOption = "p95",
    provider: ProviderOption = "auto",
    provider_option: ProviderOptionsOption = None,
    threads: ThreadsOption = 1,
    precision: PrecisionOption = "auto",
    public_key: PublicKeyOption = None,
) -> None:
    """Listen to endless audio; a JSON line for each window, event and trouble, and a summary at the end.

    With a budget, a live source that there is too little time for first costs pairs, then windows, then samples; each
    is counted and reported. Ctrl-C, SIGTERM and SIGHUP end it cleanly.
    """
    from xaimoe_runtime.memory import cap_memory
    from xaimoe_runtime.providers import parse_options
    from xaimoe_runtime.records import ErrorRecord
    from xaimoe_runtime.runtime import Runtime
    from xaimoe_runtime.streams.listener import CHANNEL_TROUBLE, Listener, Listening
    from xaimoe_runtime.streams.outlets import FileLines, Outlet, StdoutLines
    from xaimoe_runtime.streams.service import Systemd, use_fifo
    from xaimoe_runtime.streams.sources import open_source

    if fifo is not None:
        use_fifo(fifo)  # first: the threads that are begun from now on have it, too
    runtime = Runtime.load(bundle, provider, threads, precision, public_key, parse_options(provider_option))
    if memory_mb is not None:
        cap_memory(memory_mb)
    if budget_ms is not None and runtime.uncalibrated:
        _warn(f"costs are an estimate: {runtime.uncalibrated}")
    told = {"off": off, "smooth": smooth, "min_duration_s": min_duration, "refractory_s": refractory}
    events = msgspec.structs.replace(
        runtime.manifest.events,
        on=runtime.manifest.events.on | _thresholds(threshold or [], runtime.labels),
        **{name: value for name, value in told.items() if value is not None},
    )
    how = Listening(
        hop_s=hop,
        routing=routing,
        channel=channel,
        min_score=min_score,
        max_novelty=max_novelty,
        budget_ms=budget_ms,
        percentile=percentile,
        events=events,
        backlog=backlog,
        buffer_s=buffer,
        dead_s=dead_after,
        summary_s=summary_every,
        windows=not only_events,
    )
    systemd = Systemd()
    opened = open_source(
        source,
        rate,
        channels,
        encoding,
        realtime,
        wait,
        senders=sender or (),
        header_bytes=header_bytes,
        counter=counter,
    )
    listener = Listener(runtime, opened, how, systemd.alive)
    outlets: list[Outlet] = [StdoutLines() if out is None else FileLines(out, _warn)]
    if mqtt is not None:
        from xaimoe_runtime.streams.mqtt import Mqtt

        outlets.append(Mqtt(mqtt, _warn, ca=mqtt_ca, certificate=mqtt_cert, key=mqtt_key))
    elif (mqtt_ca, mqtt_cert, mqtt_key) != (None, None, None):
        raise ConfigError("found --mqtt-ca, --mqtt-cert or --mqtt-key without --mqtt; give the broker, too")
    if prometheus is not None:
        from xaimoe_runtime.streams.prometheus import serve

        serve(listener, prometheus)
    _warn(f"{runtime.name}: provider {runtime.provider}; listening to {listener.source.name}")
    systemd.ready()
    try:
        with _stopped_by_signals(listener) as signals:
            for record in listener.records():
                if isinstance(record, ErrorRecord) and record.error == CHANNEL_TROUBLE:
                    _warn(record.message)
                for outlet in outlets:
                    outlet.send(record)
    finally:
        systemd.stopping()
        for outlet in outlets:
            outlet.close()
            if outlet.lost:
                _warn(f"{outlet.lost} records were lost on their way to {type(outlet).__name__}")
    if signal.SIGINT in signals:
        raise typer.Exit(EXIT_INTERRUPTED)
    if any(outlet.lost for outlet in outlets):
        raise typer.Exit(1)


def _warn(text: str) -> None:
    typer.echo(text, err=True)


def _thresholds(texts: list[str], labels: tuple[str, ...]) -> dict[str, float]:
    """``0.6`` for all labels, and ``LABEL=0.7`` for one; what is said of one counts more."""
    every, own = dict[str, float](), dict[str, float]()
    for text in texts:
        label, equals, number = text.rpartition("=")
        try:
            score = float(number)
        except ValueError as error:
            raise ConfigError(f"--threshold: found {text!r}, expected a score, or LABEL=SCORE") from error
        if equals:
            own[label] = score
        else:
            every = dict.fromkeys(labels, score)
    return every | own


@contextmanager
def _stopped_by_signals(listener: Listener) -> Iterator[set[int]]:
    """The first SIGINT, SIGTERM or SIGHUP ends the listener cleanly, the next at once; yields those that came."""
    came: set[int] = set()

    def stop(number: int, _frame: object) -> None:
        came.add(number)
        signal.signal(number, signal.default_int_handler)
        listener.stop()

    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:  # nohup ignores it
        numbers.append(hangup)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
