from pipelines.shared.app import main

main("retinopathy")
