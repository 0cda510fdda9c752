%% An echo server that uses Erlang's built-in packet framing: escript erlang_server.escript HEADER_BYTES

main([Header]) ->
    Options = [binary, {packet, list_to_integer(Header)}, {active, false}, {nodelay, true},
               {ip, {127, 0, 0, 1}}, {backlog, 64}],
    {ok, Listener} = gen_tcp:listen(0, Options),
    {ok, Port} = inet:port(Listener),
    io:format("listening on 127.0.0.1:~b~n", [Port]),
    accept(Listener).

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive ready -> echo(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Pid),
    Pid ! ready,
    accept(Listener).

echo(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Packet} -> ok = gen_tcp:send(Socket, Packet), echo(Socket);
        {error, closed} -> gen_tcp:close(Socket)
    end.
