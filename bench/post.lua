-- POST 10 KB, to be echoed.
wrk.method = "POST"
wrk.path = "/echo"
wrk.body = string.rep("x", 10240)
