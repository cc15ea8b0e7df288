-- POST 1 MB, whose size is the answer.
wrk.method = "POST"
wrk.path = "/upload"
wrk.body = string.rep("x", 1048576)
