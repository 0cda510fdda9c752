%% Tests an echo server with Erlang's {packet, N} framing: escript erlang_client.escript HOST PORT HEADER_BYTES

main([Host, Port, Header]) ->
    Options = [binary, {packet, list_to_integer(Header)}, {active, false}, {nodelay, true}],
    {ok, Socket} = gen_tcp:connect(Host, list_to_integer(Port), Options),
    Largest = case Header of "4" -> 300000; "2" -> 65535 end,
    Packets = [payload(Size) || Size <- [0, 1, 2, 255, 256, 257, 4095, 65535, Largest, 0, 3]],
    %% Sends all packets before it receives the first reply.
    [ok = gen_tcp:send(Socket, Packet) || Packet <- Packets],
    [{ok, Packet} = gen_tcp:recv(Socket, 0, 10000) || Packet <- Packets],
    ok = gen_tcp:shutdown(Socket, write),
    {error, closed} = gen_tcp:recv(Socket, 0, 10000).

payload(Size) -> << <<(I * 7)>> || I <- lists:seq(1, Size) >>.
